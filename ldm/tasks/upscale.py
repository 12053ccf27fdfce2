"""Upscaling: enlarge and redraw, in tiles where the picture is larger than memory; the x4 upscaler."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from ldm.images import digest, on_white, to_tensor
from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.samplers import Concat, Schedule, seeded_noise
from ldm.settings import Settings, within
from ldm.tasks.task import Task
from ldm.unet import UNet
from ldm.vae.tiling import map_tiles

X4_NOISE = Schedule(beta_start=1e-4, beta_end=0.02)     # of the small picture; Stability-AI x4-upscaling.yaml
X4_NOISE_LEVEL = 350                                    # the highest that it was trained with
OWN = 2**31                                             # the highest of the bits that PyTorch takes of a seed


def enlarge(image: Image.Image, scale: float) -> Image.Image:
    """A picture of any mode, `scale` (1 to 16) times as wide and high, by Lanczos -> RGB.

    Raises ValueError for a scale out of range, or a 16-bit picture.
    """
    within("scale", scale, 1, 16)
    size = round(image.width * scale), round(image.height * scale)
    return on_white(image).resize(size, Image.Resampling.LANCZOS)


class Enlarger(Task):
    """Image to image from `scale` times the size: details that a plain enlargement lacks, the more the strength.

    Called as the pipeline, with an image.  After drawing the image at the model's own size: "hires fix".
    Raises ValueError for a scale out of range; `plan` does without an image, and for a mask, a width or a height.
    """

    def __init__(self, pipe: Pipeline, scale: float):
        within("scale", scale, 1, 16)
        super().__init__(pipe, task="upscale", scale=scale)
        self.scale = scale

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        if image is None or mask or settings.get("width") or settings.get("height"):
            raise ValueError("a picture is enlarged as a whole, by the scale; give image, but no mask, width or height")
        plan = super().plan(prompt, enlarge(image, self.scale), **settings)
        assert plan.canvas
        return replace(plan, canvas=replace(plan.canvas, sources={"image_sha256": digest(on_white(image))}))


class TiledUNet(nn.Module):
    """A UNet that sees overlapping squares of its latents, and blends what it says of them.  Called as the UNet.

    It takes the memory of one square of `tile` latents.  The squares are cut from one field of noise and brought
    together at every step, with smooth weights whose sum is 1, so there are no seams.  Exact where a network looks no
    further than a square.  Bar-Tal et al. 2023 (MultiDiffusion), whose weights are not smooth.
    """

    def __init__(self, unet: UNet, tile: int):
        super().__init__()
        self.unet, self.cfg, self.tile = unet, unet.cfg, tile

    @property
    def conv_in(self) -> nn.Conv2d:
        """Where the pipeline looks for device and dtype."""
        return self.unet.conv_in

    def forward(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B C h w], t [B] or [1], context [nB S W] -> [nB C h w].  Raises ValueError as the UNet."""
        return map_tiles(lambda part: self.unet(part, t, context, labels), x, self.tile)

    def check(self, *inputs: Tensor | None) -> None:
        """Raises ValueError: for `StepCache` and `Controlled`, which ask, features of a square are not enough."""
        raise ValueError("tiles go neither with a cache nor with a ControlNet, which need the features of a whole "
                         "picture; set cache to 1 and remove the ControlNets, or leave out the tiles")


def tiled(pipe: Pipeline, tile: int) -> Task:
    """A pipeline whose UNet sees no more than squares of `tile` pixels at once, a multiple of 8 from 32 on.

    Best is the size that the model was trained for.  With the setting `tile`, which is the VAE's, the memory that the
    networks take does not depend on the size of the picture.  Raises ValueError for another tile.
    """
    Settings(tile=tile)                                 # checks it
    task = Task(pipe, unet_tile=tile)
    task.unet = TiledUNet(pipe.unet, tile // pipe.vae.cfg.factor)  # pyright: ignore[reportAttributeAccessIssue]
    return task


def is_x4(pipe: Pipeline) -> bool:
    """Whether this is the x4 upscaler, whose UNet sees the small picture beside the latents."""
    return pipe.unet.cfg.in_channels == 7


def check_noise_level(level: int) -> None:
    """Raises ValueError for a noise level that the x4 upscaler was not trained with."""
    within("noise_level", level, 0, X4_NOISE_LEVEL)


class X4Upscaler(Task):
    """The x4 upscaler: draws one picture 4 times as wide and high, one latent to each of its pixels.

    Called as the pipeline, but without an image.  The picture gets noise, too, as at timestep `noise_level`, 0 to 350:
    with more the model invents more.
    Raises ValueError for a model of another kind and a level out of range; `plan` does for an image, width or height.
    Stability-AI/stablediffusion ldm/models/diffusion/ddpm.py, LatentUpscaleDiffusion, with ImageConcatWithNoise-
    Augmentation.
    """

    def __init__(self, pipe: Pipeline, image: Image.Image, noise_level: int = 20):
        if not is_x4(pipe):
            raise ValueError(f"a UNet of {pipe.unet.cfg.in_channels} input channels is no x4 upscaler, which has 7; "
                             "enlarge the picture, then redraw it")
        check_noise_level(noise_level)
        small = on_white(image)
        super().__init__(pipe, task="upscale", noise_level=noise_level, image_sha256=digest(small))
        self.image, self.noise_level = small, noise_level

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        if image or mask or settings.get("width") or settings.get("height"):
            raise ValueError("the x4 upscaler already has its picture, and with it the size; leave out image, mask, "
                             "width and height")
        plan, factor, (width, height) = super().plan(prompt, **settings), self.vae.cfg.factor, self.image.size
        return replace(plan, width=width * factor, height=height * factor, latents=(*plan.latents[:2], height, width))

    def check_model(self) -> None:
        """Nothing is left to check: the constructor did."""

    def network(self, plan: Plan) -> Callable[..., Tensor]:
        """That of a pipeline, with the noisy small picture, and how noisy that is as a class label."""
        own = (seed ^ OWN for seed in plan.seeds)       # the sampler's noise shall not come again in the picture
        noise, sigma = seeded_noise(own, plan.settings.noise or "cpu"), X4_NOISE.sigma(self.noise_level)
        small = to_tensor(self.image).expand(plan.latents[0], -1, -1, -1)
        small = (small + sigma * noise(small)) / math.hypot(1, sigma)
        level = torch.tensor([self.noise_level], device=self.device)
        return Concat(partial(super().network(plan), labels=level), small.to(self.device))
