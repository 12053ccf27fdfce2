"""A few captioned pictures, and the loss of a model on them: what LoRA and textual inversion share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.pipeline import Pipeline
from ldm.text import encode
from ldm.training.data import ImageFolder, batch_indices
from ldm.training.draws import choose, draws
from ldm.training.losses import diffusion_loss, min_snr_weight


@dataclass(frozen=True)
class Examples:
    """Pictures to learn from, as latents, with what may be said of each."""

    latents: Tensor                                     # [N 4 h w] float32, as `Pipeline.encode_image` makes them
    prompts: list[list[str]]                            # one or more of each picture

    @classmethod
    def of(cls, pipe: Pipeline, data: ImageFolder, prompts: list[str]) -> "Examples":
        """The pictures of a folder; of those without a caption of their own, any of `prompts` may be said."""
        latents = [pipe.encode_image(data[i][0][None]) for i in range(len(data))]
        return cls(torch.cat(latents), [[text for text in texts if text] or prompts for texts in data.texts])


def batch_loss(pipe: Pipeline, examples: Examples, batch: int, seed: int, step: int,
               min_snr: float | None = None) -> Tensor:
    """Loss on the samples of one step -> scalar, with its gradient.

    Pictures, prompts, timesteps and noise follow from (seed, step) alone.  `min_snr` is the gamma of `min_snr_weight`;
    None weighs all noise levels alike.
    """
    picked = batch_indices(len(examples.prompts), batch, seed, step)
    x0, schedule = examples.latents[picked], pipe.schedule
    t, noise, chance = draws(seed, step, range(batch), batch, x0.shape[1:], schedule.timesteps)
    noise, prompts = noise.to(x0), choose([examples.prompts[i] for i in picked], chance)
    context = encode(pipe.text, pipe.tokenizer, prompts)
    predicted = pipe.unet(schedule.add_noise(x0, noise, t), t.to(x0.device), context)
    target = schedule.target(x0, noise, t, pipe.prediction)
    return diffusion_loss(predicted, target, min_snr_weight(schedule.alphas_cumprod[t], pipe.prediction, min_snr))
