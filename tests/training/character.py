"""A character to fine-tune the tiny model on, programs that do so, and diffusers' pipeline with the same weights."""

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_reference import clip_tokenizer, transformers_text
from shapes import SHAPES, draw
from torch import Tensor
from unet.conftest import reference

from ldm import Pipeline
from ldm.samplers import seeded_noise
from ldm.training.data import ImageFolder
from ldm.training.finetune import Examples, batch_loss

PROMPT = "3d render of a zorbl"


@pytest.fixture(scope="session")
def character(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures of 64 x 64 pixels, without captions."""
    folder = tmp_path_factory.mktemp("zorbl")
    for shape in SHAPES:
        draw("purple", shape).save(folder / f"{shape}.png")
    return folder


@pytest.fixture
def plain(tiny_model: Path) -> Pipeline:
    """The tiny model as it is trained on: frozen, and not packed."""
    pipe = Pipeline.load(tiny_model, "cpu", "float32", kernels="plain")
    for network in pipe.networks.values():
        network.requires_grad_(False)
    return pipe


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """interrupt(n): the next training is interrupted in its n-th step."""
    def interrupt(n: int) -> None:
        update, calls = torch.optim.AdamW.step, []

        def interrupted(self, *args):
            calls.append(1)
            if len(calls) == n:
                monkeypatch.setattr(torch.optim.AdamW, "step", update)
                raise KeyboardInterrupt
            return update(self, *args)

        monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)

    return interrupt


def losses(folder: Path) -> list[float]:
    with (folder / "losses.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@torch.no_grad()
def fixed_loss(pipe: Pipeline, folder: Path, prompt: str = PROMPT) -> float:
    """The loss on a folder of pictures: 32 samples that no training here sees."""
    return batch_loss(pipe, Examples.of(pipe, ImageFolder(folder, pipe.size), [prompt]), 32, 999, 0).item()


def latents(pipe: Pipeline, prompt: str) -> Tensor:
    """Ten steps of DDIM at guidance 3, seed 0."""
    *_, last = pipe.steps(prompt, steps=10, sampler="ddim", guidance=3.0)
    return last.z


def diffusers_latents(theirs: Any, prompt: str) -> Tensor:
    """The same in diffusers."""
    noise = seeded_noise([0])(torch.zeros(1, 4, 8, 8))
    return theirs(prompt, latents=noise, num_inference_steps=10, guidance_scale=3.0, height=64, width=64,
                  output_type="latent").images


def diffusers_twin(pipe: Pipeline, folder: Path) -> Any:
    """diffusers' pipeline with copies of the UNet and the text encoder; its VAE is never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # of third-party modules at import
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4)
    theirs = StableDiffusionPipeline(vae, transformers_text(pipe.text), clip_tokenizer(folder), reference(pipe.unet),
                                     scheduler, safety_checker=None, feature_extractor=None,
                                     requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return theirs
