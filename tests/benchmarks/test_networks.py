"""Every contender at a tiny size, and that they are the same network."""

import subprocess
import sys

import pytest
import torch
from conftest import BENCHMARKS

from ldm.unet import UNet, UNetConfig
from ldm.vae import VAEConfig


@pytest.fixture
def networks(monkeypatch):
    """The module, with tiny shapes in place of Stable Diffusion's."""
    import networks
    monkeypatch.setattr(networks, "UNET", UNetConfig(
        channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False), res_blocks=1,
        context_width=16, heads=4))
    monkeypatch.setattr(networks, "VAE_DECODER", VAEConfig(channels=32, multipliers=(1, 1, 2, 2), res_blocks=1))
    return networks


@pytest.mark.parametrize("kind, shape", [("unet", (2, 4, 8, 8)), ("vae", (1, 3, 64, 64))])
@pytest.mark.parametrize("name", ["ldm", "ldm-portable", "ldm-plain", "ldm-fp32", "diffusers-fp32", "diffusers-bf16",
                                  "diffusers-bf16-channels_last"])
def test_contender_runs(networks, name, kind, shape):
    import contenders
    made = contenders.network(name, kind, 64, 1, "")
    result = getattr(networks, made.target.split(":")[1])(**made.arguments)()
    assert result.shape == shape and result.isfinite().all()
    assert ("bf16" in name) == (result.dtype == torch.bfloat16)     # ours takes and returns float32 in any case


@pytest.mark.parametrize("kind", ["unet", "vae"])
def test_peer_has_our_parameters(kind):
    import networks
    ours, peer = networks.own(kind), networks.peer(kind)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())


@pytest.mark.filterwarnings("ignore")                   # OpenVINO traces with what PyTorch calls deprecated
@pytest.mark.parametrize("kind, rows", [("unet", 2), ("vae", 1)])
def test_openvino_computes_what_diffusers_does(networks, tmp_path, kind, rows):
    pytest.importorskip("openvino", reason="extra [bench]")
    import convert
    convert.convert(kind, 64, rows, tmp_path / f"{kind}-64-{rows}.xml")
    out = networks.openvino(kind, 64, 1, "f32", str(tmp_path))()
    torch.testing.assert_close(out, networks.diffusers(kind, 64, 1, "float32")(), rtol=0, atol=0.02)   # float16 weights


def test_flops_are_those_of_stable_diffusion():
    import networks
    gflop = networks.flops("unet", 512, 1)()["flops"] / 1e9
    assert gflop == pytest.approx(1606.5, rel=1e-3)     # two evaluations of 803 GFLOP, nothing shared
    assert networks.flops("vae", 512, 1)()["flops"] / 1e9 == pytest.approx(2514.5, rel=1e-3)


def test_ldm_shares_what_lies_before_the_context(networks):
    """Ours takes one row of x for two of the context, which is how sampling calls it."""
    seen = []
    original = UNet.forward
    call = networks.ldm("unet", 64, 3, "float32", "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "forward", lambda self, x, t, context: seen.append((len(x), len(context))) or
                      original(self, x, t, context))
        call()
    assert seen == [(3, 6)]


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("bench_*.py")))
def test_script_explains_itself(name):
    command = [sys.executable, str(BENCHMARKS / name), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python benchmarks/{name}" in result.stdout
