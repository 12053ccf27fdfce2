"""Files whose names are right and whose shapes or metadata are not; what tells files apart; what loading costs."""

import json
import re
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ldm import CheckpointError, Pipeline
from ldm.loading import load_vae
from ldm.packed import Packed
from ldm.samplers import Schedule
from ldm.weights.fingerprint import fingerprint

TEXT = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
TO_K = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


def changed(tiny_model, path, tensors=None, **metadata):
    """The tiny model with other tensors or metadata."""
    with safe_open(tiny_model, "pt") as file:
        told = json.loads(file.metadata()["ldm"]) | metadata
        weights = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})
    save_file(weights, path, metadata={"ldm": json.dumps(told)})
    return path


@pytest.mark.parametrize(("name", "value"), [
    ("heads", "8"), ("heads", [8, 8]), ("heads", 0), ("groups", 2.5), ("size", "512"), ("size", 500),
    ("guidance", None), ("scale_factor", "0.18"), ("scale_factor", 0), ("prediction", "noise"), ("prediction", ["v"]),
    ("beta_end", 1), ("beta_start", 0), ("zero_terminal_snr", 1), ("timesteps", 2.5)])
def test_metadata_that_makes_no_sense_is_refused(tiny_model, tmp_path, name, value):
    path = changed(tiny_model, tmp_path / "m.safetensors", **{name: value})
    with pytest.raises(CheckpointError, match=f"says {name} .*, which makes no sense"):
        Pipeline.load(path)


@pytest.mark.parametrize("phrases", [None, [], "fox", {"狐狸": 3}, {"在{}": ["{}"]}, {"": "fox"}])
def test_a_glossary_that_makes_no_sense_is_refused(tiny_model, tmp_path, phrases):
    path = changed(tiny_model, tmp_path / "m.safetensors", glossary=phrases)
    with pytest.raises(CheckpointError, match=r"m\.safetensors has a glossary that makes no sense"):
        Pipeline.load(path)


def test_a_glossary_is_loaded_and_saved_with_the_model(tiny_model, tmp_path):
    pipe = Pipeline.load(changed(tiny_model, tmp_path / "m.safetensors", glossary={"狐狸": "fox", "在{}上": "on {}"}))
    pipe.save(tmp_path / "again.safetensors")
    again = Pipeline.load(tmp_path / "again.safetensors")
    for one in (pipe, again):
        chinese, english = one.encode_prompt(["狐狸在狐狸上"]), one.encode_prompt(["fox on fox"])
        assert torch.equal(chinese, english) and not torch.equal(chinese, one.encode_prompt(["fox"]))
    assert Pipeline.load(tiny_model).tokenizer.glossary is None


@pytest.mark.parametrize(("tensors", "metadata"), [
    ({TEXT: torch.zeros(64)}, {}), ({TEXT: torch.zeros(49408, 65)}, {}), ({CONV_IN: torch.zeros(32)}, {}),
    ({CONV_IN: torch.zeros(0, 4, 3, 3)}, {}), ({TO_K: torch.zeros(64)}, {}), ({}, {"heads": 3}), ({}, {"groups": 5}),
    ({}, {"vae_groups": 7})])
def test_shapes_that_fit_no_model_are_refused(tiny_model, tmp_path, tensors, metadata):
    path = changed(tiny_model, tmp_path / "m.safetensors", tensors, **metadata)
    with pytest.raises(CheckpointError, match="fit no Stable Diffusion 1 model|does not fit the"):
        Pipeline.load(path)


@pytest.mark.parametrize("part", ["cond_stage_model.", "first_stage_model.", "model.diffusion_model."])
def test_fingerprint_is_of_what_a_file_holds_and_not_of_its_name(tiny_model, tmp_path, part):
    with safe_open(tiny_model, "pt") as file:
        negative = {name: -file.get_tensor(name) for name in file.keys() if name.startswith(part)}
    own, other = (changed(tiny_model, tmp_path / name, tensors) for name, tensors in (("a", {}), ("b", negative)))
    assert own.stat().st_size == other.stat().st_size and fingerprint(own) != fingerprint(other)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(own))
    assert fingerprint(own) == fingerprint(shutil.copy(own, tmp_path / "c"))


def test_fingerprint_sees_a_change_of_one_small_tensor_and_of_what_the_file_says(tiny_model, tmp_path):
    with safe_open(tiny_model, "pt") as file:
        small = {name: file.get_tensor(name) for name in file.keys() if file.get_tensor(name).numel() < 256}
    some = [{name: 1.01 * small[name] + 1e-3} for name in list(small)[::10]]
    files = [changed(tiny_model, tmp_path / str(i), tensors) for i, tensors in enumerate(some)]
    files.append(changed(tiny_model, tmp_path / "v", {}, prediction="v"))
    found = {fingerprint(path) for path in (tiny_model, *files)}
    assert len(files) > 5 and len(found) == len(files) + 1


def test_fingerprint_of_a_folder_is_of_its_weights_and_configuration(tmp_path):
    folder, moved = tmp_path / "model", tmp_path / "moved"
    for i, name in enumerate(("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")):
        (folder / name).parent.mkdir(parents=True)
        save_file({"weight": torch.full((3,), i)}, folder / f"{name}.safetensors")
    save_file({"weight": torch.full((3,), 9)}, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    (folder / "scheduler").mkdir()
    config = folder / "scheduler/scheduler_config.json"
    config.write_text('{"prediction_type": "epsilon"}')
    first = fingerprint(folder)
    (folder / "README.md").write_text("no weights")
    assert fingerprint(shutil.copytree(folder, moved)) == first != fingerprint(folder, ema=False)
    config.write_text('{"prediction_type": "v_prediction"}')
    save_file({"weight": torch.full((3,), 9)}, moved / "vae/diffusion_pytorch_model.safetensors")
    assert len({first, fingerprint(folder), fingerprint(moved)}) == 3


def test_prediction_and_vae_are_those_that_the_caller_gives(tiny_model, other_vae):
    [picture] = Pipeline.load(tiny_model, "cpu", "float32", prediction="v", vae=other_vae)("a cat", steps=4)
    pipe = Pipeline.load(tiny_model, "cpu", "float32")
    drawn = [np.asarray(pipe("a cat", steps=4)[0], int)]
    pipe.prediction, pipe.vae = "v", load_vae(other_vae)
    drawn.append(np.asarray(pipe("a cat", steps=4)[0], int))
    far = [np.abs(np.asarray(picture, int) - other).max() for other in drawn]
    assert far[0] > 50 and far[1] <= 1                  # the last bits of float32
    told = json.loads(picture.info["ldm"])
    assert {"prediction": "v", "vae": other_vae.name, "vae_hash": fingerprint(other_vae)}.items() <= told.items()
    assert (told["model"], told["model_hash"]) == (tiny_model.name, fingerprint(tiny_model))


HEAVY = ["sympy", "open_clip", "transformers", "diffusers", "matplotlib", "scipy", "pandas", "torchvision"]
PROGRAMS = ["ldm.text.__main__"]                        # which nothing else should need
START = """
import sys
from ldm import Pipeline
pipe = Pipeline.load(sys.argv[1], "cpu", "float32")
pipe.encode_prompt(["a cat"])
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_loading_imports_nothing_heavy(tiny_model):
    """Each of these takes a second or so; PyTorch imports SymPy to draw random numbers on the meta device."""
    run = subprocess.run([sys.executable, "-c", START, tiny_model, *HEAVY, *PROGRAMS], capture_output=True, text=True,
                         check=True)
    assert run.stdout.strip() == "[]"


def test_models_are_freed_at_once(tiny_model):
    pipe = Pipeline.load(tiny_model, "cpu")
    pipe("a cat", steps=4)
    parts = [part for module in (pipe.unet, pipe.vae, pipe.text) for part in module.modules()]
    weights = [weakref.ref(next(module.parameters())) for module in (pipe.unet, pipe.vae, pipe.text)]
    weights += [weakref.ref(part.packed) for part in parts if isinstance(part, Packed)]
    del parts
    assert all(ref() is not None for ref in weights)
    pipe = None
    assert all(ref() is None for ref in weights)


def test_weights_are_laid_out_while_they_are_read(tiny_model, monkeypatch):
    """What prepares a model finds nothing to move."""
    moved = []
    def prepare(module, kernels):
        before = [weight.data_ptr() for weight in module.parameters()]
        module.to(memory_format=torch.channels_last)
        moved.extend(a for a, weight in zip(before, module.parameters(), strict=True) if a != weight.data_ptr())
    monkeypatch.setattr("ldm.loading.prepare", prepare)
    for dtype in ("float32", "bfloat16"):
        Pipeline.load(tiny_model, "cpu", dtype)
    assert moved == []


def test_schedule_comes_from_the_metadata(tiny_model, tmp_path):
    told = {"beta_start": 0.001, "beta_end": 0.02, "timesteps": 500, "zero_terminal_snr": True}
    pipe = Pipeline.load(changed(tiny_model, tmp_path / "m.safetensors", **told))
    assert pipe.schedule == Schedule(**told)
    pipe.save(tmp_path / "again.safetensors")
    assert Pipeline.load(tmp_path / "again.safetensors").schedule == pipe.schedule
