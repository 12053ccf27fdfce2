"""Plug-in files through the pipeline and the programs: what is drawn, what is told, and that it all goes off again."""

import gc
import json
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from lora_files import layers, same, weights, write_lora
from PIL import Image
from randomise import randomise
from safetensors.torch import load_file, save_file

from ldm import CheckpointError, Pipeline
from ldm.images import read_metadata
from ldm.loading import save_parts
from ldm.plugins import ControlNet
from ldm.plugins.controlnet import PREFIX, rows
from ldm.samplers import SAMPLERS
from ldm.weights.saving import to_official

FAST = {"steps": 4}
PHOTO = Image.radial_gradient("L").resize((64, 48)).convert("RGB")


@pytest.fixture
def home(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with a plug-in file of each kind for the tiny model; the current folder is another."""
    for kind in ("models", "loras", "embeddings", "controlnets"):
        (tmp_path / "home" / kind).mkdir(parents=True)
    write_lora(tmp_path / "home/loras/Fox.safetensors", layers(pipe.unet, pipe.text))
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, tmp_path / "home/embeddings/my-hat.safetensors")
    net = randomise(ControlNet(pipe.unet.cfg))
    save_file(to_official(net.state_dict(), rows(net.cfg), PREFIX), tmp_path / "home/controlnets/edges.safetensors")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LDM_MODELS", str(tmp_path / "home"))
    return tmp_path / "home"


def draw(pipe: Pipeline, prompt: str = "a cat", **settings) -> Image.Image:
    return pipe(prompt, **FAST, **settings)[0]


def told(image: Image.Image) -> dict:
    return json.loads(image.info["ldm"])


def words(image: Image.Image) -> list[str]:
    """The words of embeddings that a picture tells."""
    return [known["name"] for known in told(image)["embeddings"]]


def test_plugins_are_told_apart_by_what_they_hold(pipe, home):
    """Whatever they are called."""
    def digests() -> list[str]:
        pipe.load_lora("fox")
        pipe.load_embedding("my-hat")
        pipe.add_controlnet("edges", PHOTO)
        found = pipe.plugin_metadata()
        pipe.unload_lora()
        pipe.unload_embedding()
        pipe.remove_controlnets()
        return [found[kind][0]["hash"] for kind in ("loras", "embeddings", "controlnets")]

    before = digests()
    for path in home.glob("*/*.safetensors"):
        tensors = load_file(path)
        save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, path)
    after = digests()
    assert len({*before, *after}) == 6 and digests() == after


def test_loras_change_pictures_until_they_are_unloaded(pipe, home):
    before, exact = draw(pipe), weights(pipe)
    report = pipe.load_lora("fox", 0.5)
    assert len(report.matched) == 2 * len(layers(pipe.unet, pipe.text)) and report.unmatched == []
    changed = draw(pipe)
    assert changed.tobytes() != before.tobytes() and "loras" not in told(before)
    [fox] = told(changed)["loras"]
    assert (fox["name"], fox["weight"]) == ("Fox", 0.5)
    pipe.unload_lora("Fox")
    assert same(weights(pipe), exact) and draw(pipe).tobytes() == before.tobytes()
    pipe.load_lora(home / "loras" / "Fox.safetensors", 0.5, merge=False)
    assert draw(pipe).tobytes() != before.tobytes() and same(weights(pipe), exact)
    pipe.unload_lora()
    assert draw(pipe).tobytes() == before.tobytes()


def test_merged_loras_are_saved_and_others_are_not(pipe, home, tmp_path):
    exact = weights(pipe)
    for merge in (True, False):
        pipe.load_lora("fox", merge=merge)
        pipe.save(tmp_path / "saved.safetensors")
        assert same(weights(Pipeline.load(tmp_path / "saved.safetensors", "cpu", "float32")), weights(pipe))
        assert same(weights(pipe), exact) != merge
        pipe.unload_lora()


def test_embeddings_are_words_of_prompts(pipe, home):
    before, other = draw(pipe, "a my-hat"), draw(pipe, "a cat")
    assert pipe.load_embedding("my-hat") == "my-hat"
    after = draw(pipe, "a (my-hat:1.2) [cat|my-hat]", negative_prompt="my-hat")
    assert words(after) == ["my-hat"] and "embeddings" not in told(before)
    assert draw(pipe, "a my-hat").tobytes() != before.tobytes()
    assert draw(pipe, "a cat").tobytes() == other.tobytes()
    pipe.load_embedding("my-hat", token="<other>")
    assert words(draw(pipe, "<other>")) == ["<other>"] and words(draw(pipe, "a (MY-HAT:1.2)")) == ["my-hat"]
    first, second = pipe(["<other>", "a cat"], negative_prompt=r"\(my-hat\)", **FAST)
    assert (words(first), words(second)) == (["<other>", "my-hat"], ["my-hat"])
    pipe.unload_embedding()
    assert draw(pipe, "a my-hat").tobytes() == before.tobytes()


def test_words_of_embeddings_are_not_reported_as_unseen(pipe, home, tmp_path):
    save_parts(tmp_path / "small.safetensors", pipe.vae, pipe.unet, pipe.text, {"size": 64, "guidance": 3.0},
               pipe.tokenizer(["a cat"]).unique())
    small = Pipeline.load(tmp_path / "small.safetensors", "cpu", "float32")
    small.load_embedding("my-hat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(small, "a my-hat cat")
    with pytest.warns(UserWarning, match="was trained without hat; these words"):
        draw(small, "a hat")


def test_controlnets_change_pictures_until_they_are_removed(pipe, home):
    before = draw(pipe)
    pipe.add_controlnet("edges", PHOTO, 0.8, end=0.75)
    changed = draw(pipe)
    assert changed.tobytes() != before.tobytes()
    (control,) = told(changed)["controlnets"]
    assert control.pop("image_sha256") and control.pop("hash")
    assert control == {"name": "edges", "strength": 0.8, "start": 0.0, "end": 0.75}
    pipe.add_controlnet("edges", PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert draw(pipe).tobytes() != changed.tobytes()
    pipe.remove_controlnets()
    assert draw(pipe).tobytes() == before.tobytes()


def test_controlnets_work_with_every_sampler_size_and_picture(pipe, home):
    pipe.add_controlnet("edges", PHOTO, end=0.5)
    for sampler in SAMPLERS:
        assert pipe("a cat", steps=6, sampler=sampler)[0].size == (64, 64)
    assert draw(pipe, width=72, height=40).size == (72, 40)
    assert draw(pipe, image=PHOTO.resize((61, 43))).size == (61, 43)
    assert [image.size for image in pipe(["a", "b"], count=2, guidance=1.0, **FAST)] == [(64, 64)] * 4


def test_controlnet_sees_the_part_that_is_painted(pipe, home):
    """Where a mask lets a part alone be painted: here one that is white in a picture that is half black."""
    picture, mask = Image.new("RGB", (64, 48)), Image.new("L", (64, 48))
    picture.paste("white", (24, 0, 64, 48))
    mask.paste(255, (44, 8, 56, 20))
    control = pipe.add_controlnet("edges", picture)
    plan = pipe.plan("a cat", PHOTO, mask, only_masked=4, **FAST)
    assert plan.canvas.box[0] > 28 and (plan.width, plan.height) != picture.size
    white = control.net.look(torch.ones(1, 3, plan.height, plan.width))
    assert torch.equal(pipe.controlled(plan).seen[0], white)
    whole = pipe.controlled(pipe.plan("a cat", PHOTO, mask, **FAST)).seen[0]
    assert whole.shape == (1, 32, 6, 8) and not torch.equal(whole, control.net.look(torch.ones(1, 3, 48, 64)))


def test_controlnets_that_cannot_act_are_refused_before_any_work(pipe, home):
    with pytest.raises(ValueError, match="strength 11 is outside"):
        pipe.add_controlnet("nowhere", PHOTO, strength=11)
    with pytest.raises(ValueError, match="there is no nowhere here or in .*controlnets; it holds: edges"):
        pipe.add_controlnet("nowhere", PHOTO)
    with pytest.raises(CheckpointError, match="is a LoRA, not a ControlNet: "):
        pipe.add_controlnet(home / "loras" / "Fox.safetensors", PHOTO)
    assert pipe.controls == []
    pipe.add_controlnet("edges", PHOTO, start=0.9)
    with pytest.raises(ValueError, match="a ControlNet from 0.9 to 1.0 acts in none of 4 steps; widen that"):
        pipe.plan("a cat", **FAST)
    with pytest.raises(ValueError, match="cache 2 does not go with a ControlNet; set cache to 1"):
        pipe.plan("a cat", steps=30, cache=2)


def test_pipelines_with_plugins_are_freed_at_once(pipe, home, tiny_model):
    gc.disable()
    try:
        own = Pipeline.load(tiny_model, "cpu", "float32")
        own.load_lora("fox")
        own.load_lora(write_lora(home / "b.safetensors", layers(own.unet, own.text)).path, merge=False)
        own.load_embedding("my-hat")
        own.add_controlnet("edges", PHOTO)
        draw(own)
        gone = weakref.ref(own.unet)
        del own
        assert gone() is None
    finally:
        gc.enable()


def test_txt2img_takes_plugins_by_flags_and_from_the_prompt(run_script, pipe, home, tiny_model, tmp_path):
    (home / "models" / "tiny.safetensors").write_bytes(tiny_model.read_bytes())
    arguments = ["--ckpt", "Tiny", "--dtype", "float32", "--steps", 4, "--models-dir", home, "--out"]
    for i, (prompt, *flags) in enumerate((["a my-hat <lora:fox:0.5>"], ["a my-hat ", "--lora", "fox:0.5"],
                                          ["a my-hat ", "--lora", home / "loras/Fox.safetensors", "--embedding",
                                           home / "embeddings/my-hat.safetensors"])):
        done = run_script("txt2img.py", prompt, *flags, *arguments, tmp_path / f"{i}.png")
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / f'{i}.png'}\n"), done.stderr
    pipe.load_embedding("my-hat")
    pipe.load_lora("fox", 0.5)
    found = [read_metadata(tmp_path / f"{i}.png") for i in range(3)]
    assert [(one["prompt"], one["loras"][0]["weight"]) for one in found] == [
        ("a my-hat ", 0.5), ("a my-hat ", 0.5), ("a my-hat ", 1.0)]
    assert all([known["name"] for known in one["embeddings"]] == ["my-hat"] for one in found)
    with Image.open(tmp_path / "0.png") as first, Image.open(tmp_path / "1.png") as second:
        assert first.tobytes() == second.tobytes() == draw(pipe, "a my-hat ").tobytes()


@pytest.mark.filterwarnings("default")
def test_txt2img_tells_what_of_a_lora_does_not_fit(run_script, home, tiny_model, tmp_path):
    path = home / "loras" / "Fox.safetensors"
    save_file(load_file(path) | {"lora_unet_nothing.alpha": torch.ones(())}, path)
    done = run_script("txt2img.py", "a <lora:fox>", "--ckpt", tiny_model, "--out", tmp_path / "a.png", "--steps", 4)
    assert done.returncode == 0
    assert "txt2img: LoRA Fox: 1 of its tensors fit no layer of this model (lora_unet_nothing.alpha)\n" in done.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["a <lora:foxx:1>"], "there is no foxx here or in "), (["a <lora:fox:x>"], "is neither <lora:name> nor"),
    (["a", "--lora", "my-hat"], "no my-hat here or in "), (["a", "--ckpt", "nowhere"], "no nowhere here or in "),
    (["a", "--lora", "fox", "--lora", "fox:2"], "LoRA 'Fox' is loaded already, by weight 1.0; unload it first")])
def test_txt2img_says_mistakes_with_plugins_in_one_line(arguments, message, run_script, home, tiny_model, tmp_path):
    ckpt = [] if "--ckpt" in arguments else ["--ckpt", tiny_model]
    done = run_script("txt2img.py", *arguments, *ckpt, "--out", tmp_path / "a.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "a.png").exists()


def test_controlnet_runs_as_a_program(run_script, pipe, home, tiny_model, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    arguments = ["edges", tmp_path / "photo.png", "a cat", "--ckpt", tiny_model, "--dtype", "float32", "--steps", 4]
    done = run_script("controlnet.py", *arguments, "--out", tmp_path / "a.png", "--control-end", 0.5)
    assert done.returncode == 0, done.stderr
    done = run_script("controlnet.py", *arguments, "--out", tmp_path / "b.png", "--canny", 20, 50, "--width", 72)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.size == (88, 64) and b.size == (72, 64)            # 64 x 48, its shorter side at the native 64
        pipe.add_controlnet("edges", PHOTO.resize((88, 64), Image.Resampling.LANCZOS), end=0.5)
        assert draw(pipe, width=88, height=64).tobytes() == a.tobytes()
    done = run_script("controlnet.py", *arguments, "--control-strength", 99)
    assert done.returncode == 2 and done.stderr == "controlnet: strength 99.0 is outside 0..10; try 10\n"


def test_canny_runs_as_a_program(run_script, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    done = run_script("canny.py", tmp_path / "photo.png", "--low", 10, "--high", 20, "--out", tmp_path / "edges.png")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'edges.png'}\n")
    with Image.open(tmp_path / "edges.png") as edges:
        assert edges.size == PHOTO.size and edges.getextrema() == ((0, 255),) * 3
    done = run_script("canny.py", tmp_path / "none.png", "--out", tmp_path / "edges.png")
    assert done.returncode == 2 and done.stderr.startswith("canny: ") and done.stderr.count("\n") == 1
