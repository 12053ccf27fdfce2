"""Pipeline: a model file in, a prompt in, pictures out."""

import hashlib
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm import __version__
from ldm.approximate import GuidanceInterval, StepCache
from ldm.attention import Kernels, check_kernels
from ldm.images import on_white, pad_to_multiple, to_images, to_tensor, with_metadata
from ldm.loading import load_parts, resolve_device, resolve_dtype, save_parts
from ldm.prepare import release_memory
from ldm.samplers import CFG, SAMPLERS, Denoiser, Prediction, Schedule, Step, seeded_noise
from ldm.samplers.phases import Phases
from ldm.settings import Settings, within
from ldm.text import CLIPText, Syntax, Tokenizer, at_steps, encode, parse, same_length
from ldm.unet import UNet
from ldm.vae import VAE

BUNDLED = Path(__file__).parent / "bundled" / "model.safetensors"


class NonFiniteError(ArithmeticError):
    """Numbers overflowed, so there is no picture.  The message says where, and whether the weights are at fault."""


@dataclass(frozen=True)
class Plan:
    """A batch of pictures, decided in every respect but not yet drawn."""

    prompts: list[str]
    settings: Settings                                  # guidance and spacing resolved
    width: int                                          # of the pictures, in pixels
    height: int
    sigmas: list[float]                                 # noise levels to visit, the first to start from

    @property
    def seeds(self) -> range:
        """One seed per picture: the `count` of the first prompt, then those of the next."""
        return range(self.settings.seed, self.settings.seed + len(self.prompts) * self.settings.count)


class Pipeline:
    """Stable Diffusion: text to image and image to image.  Rombach et al. 2022.

    Its parts work alone and may be replaced: vae, unet, text (modules), tokenizer, schedule, prediction.
    """

    def __init__(self, vae: VAE, unet: UNet, text: CLIPText, prediction: Prediction = "eps", size: int = 512,
                 guidance: float = 7.5, vocabulary: Tensor | None = None, name: str = "", ema: bool = True,
                 schedule: Schedule = Schedule()):  # noqa: B008  (frozen, so safe as a default)
        self.vae, self.unet, self.text = vae, unet, text
        self.tokenizer, self.schedule = Tokenizer(), schedule
        self.prediction: Prediction = prediction
        self.size, self.guidance = size, guidance       # native side in pixels; default guidance
        self.vocabulary = vocabulary                    # token ids that the model was trained on; None: all
        self.name, self.ema = name, ema                 # of the model file, for the metadata of pictures

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "auto", dtype: str | torch.dtype = "auto",
             ema: bool = True, kernels: Kernels = "auto") -> "Pipeline":
        """Load .safetensors, .ckpt, .pt or a diffusers folder; None is the bundled model.

        device "auto": a GPU where there is one.  dtype "auto": bfloat16 where the device computes in it, else float32.
        `ema` takes EMA twins where the file has them.
        `kernels`: "auto" is the fastest exact path, "portable" does without compiled kernels, "plain" is PyTorch alone.
        Raises CheckpointError where the file does not fit, ValueError for an unknown device, dtype or kernels.
        """
        check_kernels(kernels)
        path = Path(path) if path is not None else BUNDLED
        device = resolve_device(device)
        return cls(**load_parts(path, device, resolve_dtype(dtype, device), ema, kernels), name=path.name, ema=ema)

    def save(self, path: str | Path, vocabulary: Tensor | None = None) -> None:
        """Write one .safetensors file in the official layout; with `vocabulary`, only those tokens' embeddings."""
        metadata = {"prediction": self.prediction, "size": self.size, "guidance": self.guidance,
                    **asdict(self.schedule)}
        save_parts(path, self.vae, self.unet, self.text, metadata, vocabulary)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], clip_skip: int = 1, syntax: Syntax = "a1111") -> Tensor:
        """Prompts -> context [B 77C W], C chunks for what does not fit into 75 tokens.

        `ldm.text.same_length` brings contexts of several calls to one length.  [from:to:when] and [a|b] are decided
        before, by `ldm.text.schedule`.  Warns of words that the model never saw.
        """
        self.warn_of_unseen(prompts, syntax)
        return encode(self.text, self.tokenizer, prompts, clip_skip, syntax)

    def warn_of_unseen(self, prompts: Sequence[str], syntax: Syntax = "a1111") -> None:
        """Warn where a model with a small vocabulary is asked for words outside it."""
        if self.vocabulary is None:
            return
        known = set(self.vocabulary.tolist())
        texts = [text for prompt in prompts for section in parse(prompt, syntax) for text, _ in section]
        unseen = {word for text in texts for word, ids in self.tokenizer.words(text) if not known.issuperset(ids)}
        if unseen:
            warnings.warn(f"{self.name} was trained without {', '.join(sorted(unseen))}; these words will not show",
                          stacklevel=3)

    @torch.no_grad()
    def encode_image(self, image: Image.Image | Tensor, tile: int | None = None) -> Tensor:
        """Picture, PIL or [B 3 H W] in [-1, 1] -> latents [B 4 h w], scaled for the UNet.

        Sides that are not multiples of 8 are padded by repeating the right and bottom edges.  `tile`: as `VAE.encode`.
        """
        x = to_tensor(image) if isinstance(image, Image.Image) else image
        x = pad_to_multiple(x, self.vae.cfg.factor).to(self.device)
        return self.run_vae(lambda: self.vae.encode(x, tile).mean, x) * self.vae.cfg.scale_factor

    @torch.no_grad()
    def decode_latents(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Latents [B 4 h w] (`step.z`) -> pictures [B 3 8h 8w], about [-1, 1], one at a time to save memory.

        `tile` (pixels, a multiple of 8) decodes overlapping squares and blends them: less memory still, approximate.
        Raises NonFiniteError rather than return a black picture.
        """
        raw = z / self.vae.cfg.scale_factor
        return self.run_vae(lambda: torch.cat([self.vae.decode(one, tile) for one in raw.split(1)]), z)

    def run_vae(self, run: Callable[[], Tensor], given: Tensor) -> Tensor:
        """The result of a VAE run on `given`.  A 16-bit VAE that overflows is run once more in float32, with a warning.

        Raises NonFiniteError where that does not help.
        """
        release_memory()                                # the VAE needs the most at once
        result, dtype = run(), self.vae.decoder.conv_in.weight.dtype
        if not result.isfinite().all() and given.isfinite().all() and dtype.itemsize == 2 and not self.bad_weights():
            warnings.warn(f"the VAE overflowed in {dtype}; running it once more in float32", stacklevel=3)
            self.vae.float()
            result = run()
            self.vae.to(dtype)
        if not result.isfinite().all():
            raise NonFiniteError(f"what the VAE made is not finite; {self.blame()}")
        return result

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, **settings) -> Plan:
        """What `steps` and `__call__` would do, without doing it.  Raises ValueError for a setting out of range."""
        s, prompts = Settings(**settings), [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt [] is empty; give a string, or at least one in a list")
        within("clip_skip", s.clip_skip, 1, self.text.cfg.layers)
        width, height = image.size if image else (self.size, self.size)
        sigmas = self.schedule.sigmas(s.steps, s.sigma_spacing)
        if image:
            sigmas = sigmas[-1 - max(1, math.floor((len(sigmas) - 1) * s.strength + 0.5)):]
        s = replace(s, guidance=self.guidance if s.guidance is None else s.guidance, spacing=s.sigma_spacing)
        return Plan(prompts, s, s.width or width, s.height or height, sigmas)

    def steps(self, prompt: str | Sequence[str], *, image: Image.Image | None = None, **settings) -> Iterator[Step]:
        """Yield every sampling step of a batch: progress, preview (`step.x0`), cancel by leaving the loop.

        Arguments as for `__call__`; they are checked before any work.  `decode_latents(step.z)` makes pictures.
        Raises ValueError for a setting out of range, NonFiniteError where numbers overflow.
        """
        return self.sample(self.plan(prompt, image, **settings), image)

    @torch.no_grad()
    def sample(self, plan: Plan, image: Image.Image | None = None) -> Iterator[Step]:
        """The sampling loop: from noise, or from the noised latents of an input picture."""
        s, sigmas, f = plan.settings, plan.sigmas, self.vae.cfg.factor
        noise = seeded_noise(plan.seeds)
        shape = len(plan.seeds), self.unet.cfg.out_channels, math.ceil(plan.height / f), math.ceil(plan.width / f)
        unit = noise(torch.empty(shape, device=self.device))
        if image is None:
            x = math.hypot(1, sigmas[0]) * unit
        else:
            sized = on_white(image).resize((plan.width, plan.height), Image.Resampling.LANCZOS)
            x = self.encode_image(sized, s.tile) + sigmas[0] * unit
        network = StepCache(self.unet, s.cache) if s.cache > 1 else self.unet
        denoise = self.denoiser(plan, Denoiser(network, self.schedule, self.prediction))
        extra = {"eta": s.eta} if s.sampler == "ddim" else {}
        for step in SAMPLERS[s.sampler](denoise, x, sigmas, noise, **extra):
            if not step.x.isfinite().all():
                raise NonFiniteError(f"the latents are not finite after step {step.i + 1}; {self.blame()}")
            yield step

    def denoiser(self, plan: Plan, denoiser: Denoiser) -> Phases:
        """Guidance by the planned prompts, which may change from step to step."""
        s = plan.settings
        guidance, syntax = s.guidance, s.prompt_syntax
        assert guidance is not None                     # `plan` resolved it

        @cache
        def guided(prompts: tuple[str, ...], negative: str) -> GuidanceInterval:
            cond, uncond = same_length(self.encode_prompt(prompts, s.clip_skip, syntax),
                                       self.encode_prompt([negative], s.clip_skip, syntax))
            cfg = CFG(denoiser, cond.repeat_interleave(s.count, dim=0), uncond, guidance)
            return GuidanceInterval(cfg, s.guidance_min_sigma, s.guidance_max_sigma)

        prompts = zip(*(at_steps(prompt, s.steps, syntax) for prompt in plan.prompts), strict=True)
        negatives = at_steps(s.negative_prompt, s.steps, syntax)
        return Phases(plan.sigmas, [guided(*texts) for texts in zip(prompts, negatives, strict=True)])

    def __call__(self, prompt: str | Sequence[str], *, image: Image.Image | None = None,
                 **settings) -> list[Image.Image]:
        """Draw `count` pictures of each prompt, or with `image` redraw that picture.

        `settings` are the fields of `Settings`; seeds run on over the pictures.  `info["ldm"]` of a picture holds what
        remakes it.  Raises as `steps`.
        """
        plan = self.plan(prompt, image, **settings)
        last = deque(self.sample(plan, image), maxlen=1).pop()
        return self.finish(plan, last, image)

    def finish(self, plan: Plan, step: Step, image: Image.Image | None = None) -> list[Image.Image]:
        """Decode the last step to pictures of the planned size, each with its metadata."""
        pixels = self.decode_latents(step.z, plan.settings.tile)[:, :, : plan.height, : plan.width]
        prompts = [p for p in plan.prompts for _ in range(plan.settings.count)]
        return [with_metadata(picture, self.metadata(plan, prompt, seed, image))
                for picture, prompt, seed in zip(to_images(pixels), prompts, plan.seeds, strict=True)]

    def metadata(self, plan: Plan, prompt: str, seed: int, image: Image.Image | None) -> dict[str, Any]:
        """All that remakes one picture of a batch alone."""
        settings = asdict(replace(plan.settings, seed=seed, count=1))
        if image is None:
            settings |= {"width": plan.width, "height": plan.height}
        else:
            settings["image_sha256"] = hashlib.sha256(on_white(image).tobytes()).hexdigest()
        return {"prompt": prompt, **settings, "model": self.name, "dtype": str(self.dtype).removeprefix("torch."),
                "ema": self.ema, "version": __version__}

    def blame(self) -> str:
        """Whether the weights are the reason for numbers that are not finite."""
        return self.bad_weights() or ("all weights are finite, so the computation overflowed; "
                                      "try dtype float32 or less guidance")

    def bad_weights(self) -> str:
        """Which weights are not finite, in words; "" where all are."""
        for name, module in (("UNet", self.unet), ("VAE", self.vae), ("text encoder", self.text)):
            bad = [key for key, weight in module.state_dict().items() if not weight.isfinite().all()]
            if bad:
                return f"the {name}'s weights themselves hold such numbers ({', '.join(bad[:3])}); take another file"
        return ""
