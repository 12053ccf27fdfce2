"""Files of ControlNets: which load, as what, and which are refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from controlnet_files import official, same
from PIL import Image
from randomise import randomise
from safetensors.torch import load_file, save_file
from unet.conftest import TINY, inputs

from ldm import CheckpointError, Pipeline
from ldm.packed import Packed
from ldm.plugins import Control, Controlled, ControlNet, load_controlnet
from ldm.plugins.controlnet import PREFIX, rows
from ldm.samplers import Schedule
from ldm.unet import UNet, UNetConfig
from ldm.weights.saving import to_official


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomise(UNet(TINY["sd1"]))


@pytest.fixture(scope="module")
def net(unet: UNet) -> ControlNet:
    return randomise(ControlNet(unet.cfg))


def test_official_files_load_with_and_without_a_model_beside(unet, net, tmp_path):
    """The first official ones hold a whole model too; later ones have no prefix."""
    unet_beside = {f"model.diffusion_model.{name}": tensor for name, tensor in
                   load_file(official(net, tmp_path / "bare.safetensors", prefix="")).items()}
    for prefix, beside in ((PREFIX, None), ("", None), (PREFIX, unet_beside | {"betas": torch.ones(3)})):
        loaded = load_controlnet(official(net, tmp_path / "net.safetensors", prefix, beside), unet)
        assert same(loaded, net)
    torch.save({"state_dict": load_file(tmp_path / "net.safetensors")}, tmp_path / "net.pth")
    loaded = load_controlnet(tmp_path / "net.pth", unet)
    assert same(loaded, net)


def test_controlnet_takes_dtype_and_packing_of_the_unet(tiny_model, tmp_path):
    for kernels, dtype in (("auto", torch.bfloat16), ("plain", torch.float32), ("auto", torch.float32)):
        pipe = Pipeline.load(tiny_model, "cpu", dtype, kernels=kernels)
        path = official(randomise(ControlNet(pipe.unet.cfg)), tmp_path / "net.safetensors")
        net = load_controlnet(path, pipe.unet)
        packed = [any(isinstance(m, Packed) for m in network.modules()) for network in (net, pipe.unet)]
        assert packed[0] == packed[1] and net.conv_in.weight.dtype == dtype
        assert net.mid.attn.blocks[0].self_attn.kernels == kernels
        x, t, context = inputs(pipe.unet.cfg, 8, 10)
        control = Control(net, Image.new("RGB", (80, 64), "orange"))
        out = Controlled(pipe.unet, [control], [1.0, 0.0], Schedule(), (80, 64))(x, t, context)
        assert out.dtype == torch.float32 and out.isfinite().all()


def test_official_names_count_as_the_published_files_do():
    """340 tensors in control_v11p_sd15_canny: 12 and 1 zero convolutions, 8 of the hint, and half a UNet."""
    with torch.device("meta"):
        net = ControlNet(UNetConfig())
    names = to_official(net.state_dict(), rows(net.cfg), PREFIX)
    assert len(names) == 340 and names["control_model.zero_convs.11.0.weight"].shape == (1280, 1280, 1, 1)
    assert names["control_model.input_hint_block.14.weight"].shape == (320, 256, 3, 3)


def test_controlnets_of_other_models_are_refused(unet, tmp_path):
    others = {
        "sd2": (UNetConfig(channels=32, multipliers=(1, 2, 2), attn_levels=(True, True, False),
                           cross_only=(False,) * 3, context_width=1024, groups=8),
                r"is a ControlNet for Stable Diffusion 2; this model is a model of width 24"),
        "wide": (replace(unet.cfg, channels=64), r"for another UNet \(channels 64, not 32\); take one for this model"),
        "mask": (replace(unet.cfg, in_channels=9), r"for another UNet \(in_channels 9, not 4\)"),
    }
    for name, (cfg, message) in others.items():
        path = official(randomise(ControlNet(cfg)), tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_controlnet(path, unet)


def test_files_that_are_no_controlnet_are_refused(unet, net, tiny_model, tmp_path):
    with pytest.raises(CheckpointError, match="tiny.safetensors is Stable Diffusion 1, not a ControlNet: "):
        load_controlnet(tiny_model, unet)
    with pytest.raises(CheckpointError, match="there is no file"):
        load_controlnet(tmp_path / "none.safetensors", unet)
    path = official(net, tmp_path / "net.safetensors")
    tensors = load_file(path)
    lacking = {name: tensor for name, tensor in tensors.items() if "zero_convs.2.0.bias" not in name}
    for changed, message in (
            (lacking, "does not fit the ControlNet, tensors: 1 missing .zero_convs.2.0.bias."),
            (tensors | {f"{PREFIX}task_embedding": torch.ones(1)}, "1 unexpected .task_embedding."),
            ({f"{PREFIX}zero_convs.0.0.weight": torch.ones(1)}, "lacks .* of the ControlNet; take a whole file")):
        save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_controlnet(tmp_path / "changed.safetensors", unet)
    shutil.copy(path, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated"):
        load_controlnet(tmp_path / "cut.safetensors", unet)
