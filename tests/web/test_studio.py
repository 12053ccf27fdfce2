"""The studio draws orders into files; history finds them again."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from ldm.files import stamp
from ldm.images import read_metadata, save_image
from ldm.web.history import pictures
from ldm.web.jobs import Job
from ldm.web.orders import Order
from ldm.web.studio import Studio
from ldm.weights.saving import save_safetensors

SMALL = {"steps": 2, "width": 64, "height": 64, "sampler": "euler"}


def job() -> Job:
    return Job(lambda job: None)


def test_a_picture_is_the_same_as_the_pipeline_draws(studio: Studio):
    [path] = studio.draw(Order("a fox", settings={**SMALL, "seed": 4}), job())
    [expected] = studio.use()("a fox", **SMALL, seed=4)
    told = read_metadata(path)
    assert told["seed"] == 4 and told["prompt"] == "a fox"
    assert Image.open(path).convert("RGB").tobytes() == expected.tobytes()


def test_a_job_of_several_orders_has_their_passes(studio: Studio):
    one = job()
    one.passes = 2
    studio.draw(Order("a", settings=SMALL), one)
    assert one.passes == 2 and one.progress == 0.5
    studio.draw(Order("b", settings=SMALL), one)
    assert one.progress == 1


def test_a_lora_in_a_prompt_is_never_a_path(studio: Studio, models_dir: Path):
    path = models_dir / "loras" / "strong.safetensors"
    with pytest.raises(ValueError, match="there is no"):
        studio.draw(Order(f"a fox <lora:{path}:1>", settings=SMALL), job())
    [named] = studio.draw(Order("a fox <lora:strong:1>", settings=SMALL), job())
    assert read_metadata(named)["loras"]


def test_no_lora_stays_on_after_an_error(studio: Studio):
    def drawn(prompt: str) -> bytes:
        [path] = studio.draw(Order(prompt, settings={**SMALL, "seed": 4}), job())
        with Image.open(path) as picture:
            return picture.tobytes()

    plain, changed = drawn("a fox"), drawn("a fox <lora:strong:1>")
    assert plain != changed == drawn("a fox <lora:strong:1>")
    with pytest.raises(ValueError, match="loaded already"):
        drawn("a fox <lora:strong:1> <lora:strong:0.5>")
    assert drawn("a fox") == plain


def test_a_word_is_forgotten_after_the_prompt_that_named_it(studio: Studio):
    def told(prompt: str) -> list[str]:
        [path] = studio.draw(Order(prompt, settings=SMALL), job())
        return [word["name"] for word in read_metadata(path).get("embeddings", ())]

    assert (told("a swirl"), told("a fox"), told("swirl")) == (["swirl"], [], ["swirl"])
    plain = told("a fox"), studio.use().tokenizer
    assert plain == (told("a bear"), studio.use().tokenizer)    # the same one: to make another takes time


def test_history_shows_whole_pictures_alone(tmp_path: Path):
    path = save_image(Image.new("RGB", (8, 8)), tmp_path / "2026-11-28" / "120000-0-0.png")
    (path.parent / "235959-0-0.png").touch()                    # a name that a killed server held
    (path.parent / ".235959-0-1.77.partial.png").write_bytes(b"half")
    assert pictures(tmp_path) == [path]


def test_a_lora_and_a_model_that_were_written_anew_are_loaded_anew(models_dir: Path, tmp_path: Path):
    shutil.copytree(models_dir, tmp_path / "models_dir")
    home = tmp_path / "models_dir"
    studio = Studio(tmp_path / "out", home, "tiny", "cpu", "float32")

    def drawn(prompt: str) -> bytes:
        [path] = studio.draw(Order(prompt, settings={**SMALL, "seed": 4}), job())
        with Image.open(path) as picture:
            return picture.tobytes()

    before, path = drawn("a fox <lora:strong:1>"), home / "loras" / "strong.safetensors"
    save_safetensors(path, {name: 2 * weight for name, weight in load_file(path).items()})
    after = drawn("a fox <lora:strong:1>")
    assert after != before and after == drawn("a fox <lora:strong:1>")
    (home / "models" / "folder").mkdir()
    (home / "models" / "folder" / "gone").symlink_to("nowhere")
    assert stamp(home / "models" / "folder") == ()
    plain, pipe = drawn("a fox"), studio.pipe
    assert studio.use() is pipe
    other = load_file(home / "models" / "tiny.safetensors")
    name = next(name for name in other if name.endswith("out.2.bias"))
    save_safetensors(home / "models" / "tiny.safetensors", other | {name: other[name] + 1},
                     safe_open(home / "models" / "tiny.safetensors", "pt").metadata())
    assert drawn("a fox") != plain and studio.pipe is not pipe


def test_files_of_one_name_are_told_apart_by_their_suffix(models_dir: Path, tmp_path: Path):
    for name in ("fox.pt", "Fox.safetensors", "animals/fox.pt", "cat.pt"):
        (tmp_path / "loras" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loras" / name).touch()
    found = Studio(tmp_path / "out", tmp_path).files("loras")
    assert sorted(found) == ["Fox.safetensors", "animals/fox", "cat", "fox.pt"]


def test_too_little_memory_is_a_memory_error(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ldm.web.studio.draw", lambda *_: torch.empty(10**14))
    with pytest.raises(MemoryError, match="there is not enough memory; ask for a smaller picture"):
        studio.draw(Order("a fox", settings=SMALL), job())
