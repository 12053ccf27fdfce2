"""What there is, options, health, metrics, the description of the API."""

import re
import shutil

import httpx
import pytest
from exchange import TINY, decoded
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from ldm.images import read_metadata
from ldm.metadata import SAMPLERS
from ldm.web.history import pictures
from ldm.web.studio import Studio


def get(client: httpx.Client, name: str):
    reply = client.get(f"/sdapi/v1/{name}")
    assert reply.status_code == 200
    return reply.json()


def test_lists_name_what_there_is(client: httpx.Client):
    assert [model["title"] for model in get(client, "sd-models")] == ["bundled", "other", "tiny"]
    assert [sampler["name"] for sampler in get(client, "samplers")] == [*SAMPLERS.values()]
    assert {"automatic", "karras"} <= {schedule["name"] for schedule in get(client, "schedulers")}
    assert [upscaler["name"] for upscaler in get(client, "upscalers")] == ["None", "Lanczos", "Nearest"]
    assert [lora["name"] for lora in get(client, "loras")] == ["strong"]
    assert [*get(client, "embeddings")["loaded"]] == ["swirl"]
    assert [vae["model_name"] for vae in get(client, "sd-vae")] == ["other", "tiny"]
    assert get(client, "scripts") == {"txt2img": [], "img2img": []}
    assert 0 < get(client, "memory")["ram"]["used"] < get(client, "memory")["ram"]["total"]


def test_lists_say_no_path_of_the_machine(client: httpx.Client):
    for name in ("sd-models", "sd-vae", "loras", "embeddings", "upscalers"):
        assert "/" not in client.get(f"/sdapi/v1/{name}").text


def test_every_listed_sampler_and_schedule_draws(client: httpx.Client):
    for sampler in get(client, "samplers")[:3]:
        for schedule in get(client, "schedulers")[:2]:
            body = {**TINY, "steps": 4, "sampler_name": sampler["name"], "scheduler": schedule["name"]}
            assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200


def test_new_files_are_seen_at_once(client: httpx.Client, studio: Studio):
    assert studio.models_dir
    path = studio.models_dir / "loras" / "new.safetensors"
    path.touch()
    try:
        assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200
        assert [lora["name"] for lora in get(client, "loras")] == ["new", "strong"]
    finally:
        path.unlink()


def test_options_switch_the_model(client: httpx.Client, studio: Studio):
    try:
        assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other", "nothing": 1}).json() == {
            "notes": ["option 'nothing' has no effect here and was ignored"]}
        assert get(client, "options")["sd_model_checkpoint"] == "other"
        client.post("/sdapi/v1/txt2img", json=TINY)
        newest = max(pictures(studio.out), key=lambda path: path.stat().st_mtime)
        assert read_metadata(newest)["model"] == "other.safetensors"
    finally:
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny"})


def test_a_model_may_have_brackets_in_its_name(client: httpx.Client, studio: Studio):
    assert studio.models_dir
    path = studio.models_dir / "models" / "my model [v2].safetensors"
    shutil.copy(studio.models_dir / "models" / "tiny.safetensors", path)
    try:
        for name in ("my model [v2]", "my model [v2].safetensors [0123456789]", "tiny [0123456789]", "tiny"):
            assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": name}).status_code == 200
            assert get(client, "options")["sd_model_checkpoint"] == name.partition(".")[0].partition(" [0")[0]
    finally:
        path.unlink()


def test_options_that_are_sent_back_change_nothing(app: FastAPI):
    options = app.state.web.options
    with TestClient(app, base_url="http://127.0.0.1") as client:
        told = client.get("/sdapi/v1/options").json()
        assert client.post("/sdapi/v1/options", json=told).json() == {"notes": []}
    assert app.state.web.options == options


def test_a_model_is_loaded_with_the_vae_that_holds(app: FastAPI, studio: Studio, monkeypatch: pytest.MonkeyPatch):
    used = []
    monkeypatch.setattr(studio, "use", lambda *names: used.append(names))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for options in ({"sd_vae": "tiny"}, {"sd_model_checkpoint": "other"}):
            assert client.post("/sdapi/v1/options", json=options).status_code == 200
    assert used == [("other", "tiny")]


def test_override_settings_hold_for_one_request(client: httpx.Client):
    def model(**fields) -> str:
        [picture] = client.post("/sdapi/v1/txt2img", json={**TINY, **fields}).json()["images"]
        return re.search(r"Model: (\w+)", decoded(picture).info["parameters"])[1]

    assert model(override_settings={"sd_model_checkpoint": "other"}) == "other"
    assert model() == "tiny" and get(client, "options")["sd_model_checkpoint"] == "tiny"


@pytest.mark.parametrize(("options", "status"), [
    ({"sd_model_checkpoint": "absent"}, 404), ({"sd_model_checkpoint": "../models/tiny"}, 404),
    ({"CLIP_stop_at_last_layers": 99}, 422), ([], 422)])
def test_wrong_options_change_nothing(client: httpx.Client, options: dict, status: int):
    before = get(client, "options")
    assert client.post("/sdapi/v1/options", json=options).status_code == status
    assert get(client, "options") == before


def test_health_and_metrics(client: httpx.Client):
    client.post("/sdapi/v1/txt2img", json=TINY)
    assert client.get("/health").json() == {
        "status": "ok", "model": "tiny", "loaded": True, "running": False, "waiting": 0}
    samples = {(sample.name, *sample.labels.values()): sample.value
               for family in text_string_to_metric_families(client.get("/metrics").text) for sample in family.samples}
    assert samples["ldm_jobs_total", "done"] >= 1 and samples["ldm_jobs_waiting",] == 0
    assert samples["ldm_job_seconds_total",] > 0 and samples["ldm_resident_memory_bytes",] > 2**20


def test_the_description_needs_no_other_host(client: httpx.Client):
    page = client.get("/docs").text
    files = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(files) >= 3 and all(file.startswith("/") for file in files)
    assert all(client.get(file).status_code == 200 for file in files)
    assert client.get("/openapi.json").json()["paths"]["/sdapi/v1/txt2img"]
