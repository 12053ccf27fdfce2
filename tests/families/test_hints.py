"""The sign that a network predicts something else than it is taken for: on closed forms, and in the pipeline."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm import Pipeline
from ldm.hints import PredictionHint
from ldm.loading import save_parts
from ldm.samplers import CFG, Denoiser, Schedule
from ldm.text import CLIPText
from ldm.unet import UNet
from ldm.vae import VAE

SCHEDULE = Schedule()
FULL = SCHEDULE.grid[-1]                                # 14.6


def gaussian(mean: Tensor, std: float, predicts: str):
    """The exact network for data of this mean [C h w] and standard deviation."""
    def network(z: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        sigma = SCHEDULE.sigma(t[0].item())
        scale = math.hypot(1, sigma)
        x = scale * z
        x0 = mean + std**2 / (std**2 + sigma**2) * (x - mean)
        eps = (x - x0) / sigma
        return eps if predicts == "eps" else (eps - sigma * x0) / scale
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize("told", ["eps", "v"])
def test_a_wrong_prediction_is_told_at_full_noise(told, predicts, std):
    mean = 0.7 * noise(4, 16, 16)
    hint = PredictionHint(Denoiser(gaussian(mean, std, predicts), SCHEDULE, told), told)
    x = math.hypot(1, FULL) * noise(2, 4, 16, 16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x0 = hint(x, FULL)
        assert torch.equal(hint(x, FULL), x0)           # asked once
    assert torch.equal(x0, Denoiser(gaussian(mean, std, predicts), SCHEDULE, told)(x, FULL))
    right = [] if told == predicts else [f"try prediction {predicts!r}"]
    assert [str(warning.message).split("; ")[1] for warning in said] == right


@pytest.mark.parametrize(("sigma", "told"), [(5.0, "eps"), (FULL, "x0")])
def test_little_noise_and_x0_tell_nothing(sigma, told):
    hint = PredictionHint(Denoiser(gaussian(noise(4, 8, 8), 1.0, "v"), SCHEDULE, told), told)
    hint(math.hypot(1, sigma) * noise(1, 4, 8, 8), sigma)           # a warning would be an error
    hint(math.hypot(1, FULL) * noise(1, 4, 8, 8), FULL)             # later than the first call


@pytest.fixture
def sd2(configs, tmp_path) -> Path:
    """A tiny Stable Diffusion 2 that knows every token; the file does not say what it predicts."""
    unet, vae, text = (configs["sd2"][part] for part in ("unet", "vae", "text"))
    path = tmp_path / "sd2.safetensors"
    save_parts(path, VAE(vae), UNet(unet), CLIPText(replace(text, vocab=49408)), {"size": 64})
    return path


@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize("told", ["eps", "v"])
def test_the_pipeline_tells_that_stable_diffusion_2_was_loaded_for_another_prediction(sd2, told, predicts, monkeypatch):
    """The UNet is one that knows the picture; told what it predicts, the pipeline draws that picture."""
    pipe = Pipeline.load(sd2, "cpu", "float32", prediction=told)
    known = noise(4, 8, 8)
    network = gaussian(known, 0.0, predicts)
    monkeypatch.setattr(pipe.unet, "forward", lambda z, t, context: torch.cat([network(z, t, None)] * 2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        *_, last = pipe.steps("a cat")
    right = told == predicts
    assert [str(warning.message).split("; ")[1] for warning in said] == (
        [] if right else [f"try prediction {predicts!r}"])
    assert last.x0.allclose(known[None], rtol=0, atol=1e-4) == right


@pytest.mark.parametrize(("told", "guidance"), [("v", 1.0), ("v", 7.5), ("eps", 1.0), ("eps", 7.5)])
def test_the_bundled_model_predicts_v(told, guidance):
    pipe = Pipeline.load(None, "cpu", "float32")
    assert pipe.prediction == "v"
    cond, uncond = pipe.encode_prompt(["3d render of a fox"]), pipe.encode_prompt([""])
    hint = PredictionHint(CFG(Denoiser(pipe.unet, pipe.schedule, told), cond, uncond, guidance), told)
    x, sigma = math.hypot(1, FULL) * noise(1, 4, 16, 16), pipe.schedule.grid[-1]
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        hint(x, sigma)
    assert [str(warning.message).rpartition(" ")[2] for warning in said] == ([] if told == "v" else ["'v'"])
