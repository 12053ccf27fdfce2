"""Pipeline: a model file in, a prompt in, pictures out."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ldm import __version__
from ldm.approximate import StepCache
from ldm.attention import Kernels, check_kernels
from ldm.finite import NonFiniteError, bad_weights, blame
from ldm.guidance import guide
from ldm.hints import PredictionHint
from ldm.images import to_images, with_metadata
from ldm.latents import to_latents, to_pixels
from ldm.loading import load_parts, resolve_device, resolve_dtype, save_parts
from ldm.masks import blank, make_canvas
from ldm.plan import Plan
from ldm.plugins import Plugins
from ldm.samplers import PRESETS, SAMPLERS, Concat, Denoiser, Inpaint, Prediction, Schedule, Step, find_course
from ldm.settings import Settings, within
from ldm.text import CLIPText, Glossary, Syntax, Tokenizer, encode, parse
from ldm.text.tokenizer import EOS
from ldm.unet import UNet
from ldm.vae import VAE
from ldm.weights.fingerprint import fingerprint

BUNDLED = Path(__file__).parent / "bundled" / "model.safetensors"
INPAINTING = 9                                          # channels of a UNet that takes latents, mask, known latents


@dataclass(frozen=True)
class Origin:
    """What a pipeline was loaded from, and how: as its pictures tell it."""

    model: str = ""                                     # name of the file or folder
    model_hash: str = ""                                # its `fingerprint`
    vae: str = ""                                       # both of a VAE's own file, where it is not the model's VAE
    vae_hash: str = ""
    ema: bool = True
    kernels: Kernels = "auto"


class Pipeline(Plugins):
    """Stable Diffusion: text to image and image to image.  Rombach et al. 2022.

    Its parts work alone and may be replaced: vae, unet, text (modules), tokenizer, schedule, prediction.
    """

    def __init__(self, vae: VAE, unet: UNet, text: CLIPText, prediction: Prediction = "eps", size: int = 512,
                 guidance: float = 7.5, vocabulary: Tensor | None = None, schedule: Schedule = Schedule(),
                 origin: Origin = Origin(), glossary: Glossary | None = None):
        super().__init__()
        self.vae, self.unet, self.text = vae, unet, text
        self.tokenizer, self.schedule = Tokenizer(text.cfg.pad, glossary), schedule
        self.prediction: Prediction = prediction
        self.size, self.guidance = size, guidance       # native side in pixels; default guidance
        self.vocabulary = vocabulary                    # token ids that the model was trained on; None: all
        self.origin = origin                            # for the metadata of pictures

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "auto", dtype: str | torch.dtype = "auto",
             ema: bool = True, kernels: Kernels = "auto", prediction: Prediction | None = None,
             vae: str | Path | None = None) -> "Pipeline":
        """Load .safetensors, .ckpt, .pt or a diffusers folder; None is the bundled model.

        device "auto": a GPU where there is one.  dtype "auto": bfloat16 where the device computes in it, else float32.
        `ema` takes EMA twins where the file has them.
        `kernels`: "auto" is the fastest exact path, "portable" does without compiled kernels, "plain" is PyTorch alone.
        `prediction` ("eps", "v", "x0") wins over what the file says.  `vae`: a file whose VAE, or TAESD, to take.
        Raises CheckpointError where the file does not fit, ValueError for an unknown name of the others.
        """
        check_kernels(kernels)
        path = Path(path) if path is not None else BUNDLED
        device = resolve_device(device)
        parts = load_parts(path, device, resolve_dtype(dtype, device), ema, kernels, prediction, vae)
        other_vae = (Path(vae).name, fingerprint(vae)) if vae else ("", "")
        return cls(**parts, origin=Origin(path.name, fingerprint(path, ema), *other_vae, ema, kernels))

    def save(self, path: str | Path, vocabulary: Tensor | None = None) -> None:
        """Write one .safetensors file in the official layout; with `vocabulary`, only those tokens' embeddings."""
        save_parts(path, self.vae, self.unet, self.text, self.file_metadata, vocabulary)

    @property
    def file_metadata(self) -> dict[str, Any]:
        """What its file says of it, beside the shape of its networks."""
        glossary = self.tokenizer.glossary
        return {"prediction": self.prediction, "size": self.size, "guidance": self.guidance, **asdict(self.schedule),
                **({"glossary": glossary.phrases} if glossary else {})}

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
        unseen = {word for text in texts for word, ids in self.tokenizer.words(text)
                  if not known.issuperset(i for i in ids if i <= EOS)}    # those above are a textual inversion's
        if unseen:
            warnings.warn(f"{self.origin.model} was trained without {', '.join(sorted(unseen))}; these words will not "
                          "show", stacklevel=3)

    def encode_image(self, image: Image.Image | Tensor, tile: int | None = None) -> Tensor:
        """Picture, PIL or [B 3 H W] in [-1, 1] -> latents [B 4 h w], scaled for the UNet.

        Sides that are not multiples of 8 are padded by repeating the right and bottom edges.  `tile`: as `VAE.encode`.
        """
        return to_latents(self.vae, image, tile)

    def decode_latents(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Latents [B 4 h w] (`step.z`) -> pictures [B 3 8h 8w], about [-1, 1], one at a time to save memory.

        `tile` (pixels, a multiple of 8) decodes overlapping squares and blends them: less memory still, approximate.
        Raises NonFiniteError rather than return a black picture.
        """
        return to_pixels(self.vae, z, tile)

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        """What `steps` and `__call__` would do, without doing it; `describe()` says it.  Raises ValueError as they."""
        s, prompts = Settings(**settings), [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt [] is empty; give a string, or at least one in a list")
        within("clip_skip", s.clip_skip, 1, self.text.cfg.layers)
        within("seed", s.seed, 0, 2**63 - 1 - len(prompts) * s.count)
        self.check_model()
        canvas = make_canvas(image, mask, s, self.size)
        width, height = canvas.size if canvas else (s.width or self.size, s.height or self.size)
        if canvas or self.unet.cfg.in_channels == INPAINTING:
            self.vae.check_encoder()
        redrawn = canvas is not None and (canvas.repaint is None or s.strength < 1)
        course = find_course(self.schedule, s.sampler, s.steps, s.sigma_spacing, s.strength if redrawn else None,
                             s.preset)
        self.check_controls(s.cache, course.sigmas)
        s = replace(s, guidance=self.guidance if s.guidance is None else s.guidance, spacing=s.sigma_spacing,
                    noise=s.noise or PRESETS[s.preset].noise)
        h, w = (math.ceil(side / self.vae.cfg.factor) for side in (height, width))
        latents = len(prompts) * s.count, self.unet.cfg.out_channels, h, w
        plan = Plan(prompts, s, width, height, course, latents, self.schedule, self.tokenizer, canvas)
        plan.check_lengths()
        return plan

    def check_model(self) -> None:
        """Raises ValueError for a model that needs more than a prompt, a picture and a mask."""
        if self.unet.cfg.in_channels not in (self.unet.cfg.out_channels, INPAINTING):
            raise ValueError(f"{self.origin.model}, whose UNet takes {self.unet.cfg.in_channels} channels, enlarges "
                             "pictures; use scripts/upscale.py, or ldm.tasks.X4Upscaler")

    def steps(self, prompt: str | Sequence[str], *, image: Image.Image | None = None, mask: Image.Image | None = None,
              **settings) -> Iterator[Step]:
        """Yield every sampling step of a batch: progress, preview (`step.x0`), cancel by leaving the loop.

        Arguments as for `__call__`; they are checked before any work.  `decode_latents(step.z)` makes pictures.
        Raises ValueError for a setting out of range and a mask that does not fit, NonFiniteError for an overflow.
        """
        return self.sample(self.plan(prompt, image, mask, **settings))

    @torch.no_grad()
    def sample(self, plan: Plan) -> Iterator[Step]:
        """The sampling loop: from noise, or the noised latents of a picture; under a mask at strength 1 from noise.

        What a mask keeps is kept by `Inpaint`, unless the model was trained to inpaint.
        """
        s, sigmas, canvas = plan.settings, plan.sigmas, plan.canvas
        noise, inpaint = plan.noise(), None
        unit = noise(torch.empty(plan.latents, device=self.device))
        x = plan.course.begin(unit)
        denoise = guide(plan, Denoiser(self.network(plan), self.schedule, self.prediction),
                        lambda prompts: self.encode_prompt(prompts, s.clip_skip, s.prompt_syntax))
        if self.unet.cfg.family == "sd2":               # official files do not say what they predict
            denoise = PredictionHint(denoise, self.prediction)
        if canvas:
            known = self.encode_image(canvas.picture, s.tile)
            if canvas.repaint is None or s.strength < 1:
                x = plan.course.begin(unit, known)
            if canvas.repaint is not None and self.unet.cfg.in_channels != INPAINTING:
                mask = canvas.pooled_mask(self.vae.cfg.factor).to(self.device)
                denoise = inpaint = Inpaint(denoise, known, mask, unit)
                x = inpaint.keep(x, inpaint.noised(sigmas[0]))
        extra = {"eta": s.eta} if s.sampler == "ddim" else {}
        for step in SAMPLERS[s.sampler](denoise, x, sigmas, noise, **extra):
            if not step.x.isfinite().all():
                raise NonFiniteError(f"the latents are not finite after step {step.i + 1}; {blame(self.networks)}")
            yield inpaint.settle(step, last=step.i == len(sigmas) - 2) if inpaint else step

    def network(self, plan: Plan) -> Callable[..., Tensor]:
        """The UNet with its cache, and if it was trained to inpaint, with the mask and what is seen beside it.

        Without a mask nothing is seen, all is painted.  Stability-AI/stablediffusion ddpm.py, LatentInpaintDiffusion.
        """
        s = plan.settings
        network = StepCache(self.unet, s.cache) if s.cache > 1 else self.controlled(plan)
        if self.unet.cfg.in_channels != INPAINTING:
            return network
        canvas = plan.canvas or blank(plan.width, plan.height)
        mask = canvas.sampled_mask(self.vae.cfg.factor).to(self.device)
        return Concat(network, torch.cat([mask, self.encode_image(canvas.known, s.tile)], dim=1))

    def __call__(self, prompt: str | Sequence[str], *, image: Image.Image | None = None,
                 mask: Image.Image | None = None, **settings) -> list[Image.Image]:
        """Draw `count` pictures of each prompt, or with `image` redraw that picture, or where `mask` is white only.

        The mask has the picture's size; what it keeps stays bit for bit.  `settings` are the fields of `Settings`;
        seeds run on over the pictures.  `info["ldm"]` of a picture holds what remakes it.  Raises as `steps`.
        """
        return self.draw(self.plan(prompt, image, mask, **settings))

    def draw(self, plan: Plan, progress: Callable[[Iterator[Step]], Iterable[Step]] = iter) -> list[Image.Image]:
        """The pictures of a plan.  `progress` may wrap the steps, as tqdm does.  Raises NonFiniteError."""
        return self.finish(plan, deque(progress(self.sample(plan)), maxlen=1).pop())

    def finish(self, plan: Plan, step: Step) -> list[Image.Image]:
        """Decode the last step to pictures of the planned size, put them in their place, and attach their metadata."""
        pictures = to_images(self.decode_latents(step.z, plan.settings.tile)[:, :, : plan.height, : plan.width])
        if plan.canvas:
            pictures = [plan.canvas.paste(picture) for picture in pictures]
        return [with_metadata(picture, self.metadata(plan, i)) for i, picture in enumerate(pictures)]

    def metadata(self, plan: Plan, i: int) -> dict[str, Any]:
        """All that remakes picture i of a batch alone."""
        return {**plan.metadata(i), **self.plugin_metadata(plan, i), **asdict(self.origin),
                "prediction": self.prediction, "dtype": str(self.dtype).removeprefix("torch."), "version": __version__}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"UNet": self.unet, "VAE": self.vae, "text encoder": self.text}

    def bad_weights(self) -> str:
        """Which weights are not finite, in words; "" where all are."""
        return bad_weights(self.networks)
