"""The routes that draw, over HTTP."""

import base64
import errno
import http.client
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from exchange import TINY, decoded, encoded
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.files import refused
from ldm.images import KEY, read_metadata, read_parameters
from ldm.web.history import pictures
from ldm.web.studio import Studio

RED = encoded(Image.new("RGB", (64, 64), "red"))


def test_txt2img_gives_the_pictures_of_the_pipeline(client: httpx.Client, studio: Studio):
    reply = client.post("/sdapi/v1/txt2img", json={"prompt": "a fox", **TINY, "batch_size": 2, "n_iter": 2}).json()
    made = [decoded(text) for text in reply["images"]]
    info = json.loads(reply["info"])
    assert info["all_seeds"] == [1, 2, 3, 4] and info["seed"] == 1 and reply["parameters"]["steps"] == 2
    assert [picture.info["parameters"] for picture in made] == info["infotexts"]
    [expected] = studio.use("tiny")("a fox", steps=2, width=64, height=64, seed=3, guidance=7, sampler="euler", count=1)
    difference = np.asarray(made[2].convert("RGB")).astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 1                   # it was drawn in a batch of two


def test_pictures_are_kept_and_need_not_be_sent(client: httpx.Client, studio: Studio):
    reply = client.post("/sdapi/v1/txt2img", json={"prompt": "kept", **TINY, "send_images": False}).json()
    newest = max(pictures(studio.out), key=lambda path: path.stat().st_mtime)
    assert reply["images"] == [] and read_metadata(newest)["prompt"] == "kept"
    assert json.loads(reply["info"])["infotexts"] == [read_parameters(newest)]


def test_a_lora_and_an_embedding_in_the_prompt_count(client: httpx.Client):
    def draw(prompt: str) -> bytes:
        return decoded(client.post("/sdapi/v1/txt2img", json={"prompt": prompt, **TINY}).json()["images"][0]).tobytes()

    plain = draw("a fox")
    assert draw("a fox <lora:strong:9>") != plain
    assert draw("a swirl fox") != plain
    assert draw("a fox") == plain                       # nothing stays behind


def test_img2img_repaints_under_the_mask_alone(client: httpx.Client):
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    body = {**TINY, "init_images": [encoded(noise)], "mask": encoded(mask), "mask_blur": 0, "inpaint_full_res": False,
            "denoising_strength": 1, "inpainting_fill": 1}
    [picture] = client.post("/sdapi/v1/img2img", json=body).json()["images"]
    drawn, given = np.asarray(decoded(picture).convert("RGB")), np.asarray(noise)
    assert (drawn[:, 32:] == given[:, 32:]).all() and (drawn[:, :32] != given[:, :32]).any()


def test_enable_hr_gives_the_larger_picture(client: httpx.Client):
    body = {**TINY, "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Lanczos", "denoising_strength": 0.5}
    [picture] = client.post("/sdapi/v1/txt2img", json=body).json()["images"]
    assert decoded(picture).size == (96, 96)
    assert json.loads(decoded(picture).info[KEY])["task"] == "upscale"


def test_extra_single_image_and_png_info(client: httpx.Client):
    body = {"image": RED, "upscaler_1": "Lanczos", "upscaling_resize": 2}
    assert decoded(client.post("/sdapi/v1/extra-single-image", json=body).json()["image"]).size == (128, 128)
    asked = {"prompt": "a fox", "negative_prompt": "a cat", **TINY}
    [picture] = client.post("/sdapi/v1/txt2img", json=asked).json()["images"]
    info = client.post("/sdapi/v1/png-info", json={"image": picture}).json()
    assert info["info"].startswith("a fox\nNegative prompt: a cat\nSteps: 2")
    assert info["parameters"]["Prompt"] == "a fox" and info["parameters"]["Seed"] == "1"
    assert client.post("/sdapi/v1/png-info", json={"image": RED}).json() == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize(("body", "status", "said"), [
    ({"width": 500}, 422, "width 500"), ({"sampler_name": "none"}, 404, "sampler 'none'"),
    ({"styles": ["old"]}, 422, "styles"), ({"prompt": "<lora:/etc/passwd:1>"}, 404, "LoRA '/etc/passwd'"),
    ({"prompt": 7}, 422, "prompt 7"), ({"preset": "x"}, 422, "preset 'x'"),
    ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 404, "no model")])
def test_mistakes_are_told_in_a_line(client: httpx.Client, body: dict, status: int, said: str):
    reply = client.post("/sdapi/v1/txt2img", json=body)
    assert reply.status_code == status and said in reply.json()["detail"] and "\n" not in reply.json()["detail"]


@pytest.mark.parametrize(("picture", "status"), [
    ("http://127.0.0.1/a.png", 422), ("file:///etc/passwd", 422), ("/etc/passwd", 422), ("", 422), ("AAAA", 422),
    (encoded(Image.new("L", (5000, 5000))), 413)])
def test_pictures_are_never_fetched_nor_decoded_beyond_bounds(client: httpx.Client, picture: str, status: int):
    assert client.post("/sdapi/v1/img2img", json={"init_images": [picture]}).status_code == status
    assert client.post("/sdapi/v1/png-info", json={"image": picture}).status_code == status


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"steps": NaN}',
                                     b'{"prompt": "\\ud800"}', b'{"seed": 1' + b"0" * 5000 + b"}",
                                     b'{"\\ud800": 1, "steps": 0}'])
def test_what_is_no_json_is_refused(client: httpx.Client, content: bytes):
    reply = client.post("/sdapi/v1/txt2img", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422) and isinstance(reply.json()["detail"], str)


def test_a_body_that_is_too_long_is_refused(client: httpx.Client):
    def pieces():
        yield b'{"prompt": "'
        for _ in range(100):
            yield b"a" * 2**20

    reply = client.post("/sdapi/v1/txt2img", content=pieces(), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413


@pytest.mark.parametrize("path", ["/static-offline-docs/../core.py", "/static-offline-docs/%2e%2e/core.py",
                                  "/static-offline-docs//etc/passwd", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_paths_lead_nowhere(client: httpx.Client, path: str):
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    connection.request("GET", path)                     # as it stands; others would straighten it
    assert connection.getresponse().status == 404
    connection.close()


def test_a_full_disk_is_told_in_a_line(client: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    def full(picture: Image.Image, path: Path) -> Path:
        raise refused(path, errno.ENOSPC)

    monkeypatch.setattr("ldm.web.studio.save_image", full)
    reply = client.post("/sdapi/v1/txt2img", json={"prompt": "a fox", **TINY})
    assert reply.status_code == 507 and "cannot write or read a file (No space left on device)" in reply.text
    assert "/" not in reply.json()["detail"]


def test_a_hostile_text_is_read_at_once(client: httpx.Client):
    info = PngInfo()
    info.add_text("parameters", "a" * 300_000, zip=True)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    picture = base64.b64encode(file.getvalue()).decode()
    assert client.post("/sdapi/v1/png-info", json={"image": picture}).json()["parameters"] == {}
