"""Files whose names are right and whose shapes or metadata are not."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ldm import CheckpointError, Pipeline

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
    ("guidance", None), ("scale_factor", "0.18"), ("scale_factor", 0), ("prediction", "noise"), ("prediction", ["v"])])
def test_metadata_that_makes_no_sense_is_refused(tiny_model, tmp_path, name, value):
    path = changed(tiny_model, tmp_path / "m.safetensors", **{name: value})
    with pytest.raises(CheckpointError, match=f"says {name} .*, which makes no sense"):
        Pipeline.load(path)


@pytest.mark.parametrize(("tensors", "metadata"), [
    ({TEXT: torch.zeros(64)}, {}), ({TEXT: torch.zeros(49408, 65)}, {}), ({CONV_IN: torch.zeros(32)}, {}),
    ({CONV_IN: torch.zeros(0, 4, 3, 3)}, {}), ({TO_K: torch.zeros(64)}, {}), ({}, {"heads": 3}), ({}, {"groups": 5}),
    ({}, {"vae_groups": 7})])
def test_shapes_that_fit_no_model_are_refused(tiny_model, tmp_path, tensors, metadata):
    path = changed(tiny_model, tmp_path / "m.safetensors", tensors, **metadata)
    with pytest.raises(CheckpointError, match="fit no Stable Diffusion 1 model|does not fit the"):
        Pipeline.load(path)
