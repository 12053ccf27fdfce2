"""What clients of A1111's API send: its fields with their names and defaults.

AUTOMATIC1111/stable-diffusion-webui modules/api/models.py, modules/processing.py.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ldm.metadata import OUR_SAMPLERS, OUR_SOURCES, OUR_SPACINGS

BATCH_PIXELS = 2**22                                    # drawn at once: four pictures of 1024x1024
PROMPT_CHARS = 20_000
SPACES = {**{name.casefold(): ours for name, ours in OUR_SPACINGS.items()},
          **{ours: ours for ours in ("linspace", "leading", "trailing", "karras", "exponential", "compvis")}}
SAMPLING = {**{name.casefold(): ours for name, ours in OUR_SAMPLERS.items()},
            **{ours: ours for ours in OUR_SAMPLERS.values()}}

OFF: dict[str, tuple[Any, ...]] = {                     # known but unsupported: the values that ask for nothing
    "styles": (None, []), "seed_resize_from_h": (None, 0, -1), "seed_resize_from_w": (None, 0, -1),
    "restore_faces": (None, False), "tiling": (None, False), "do_not_save_samples": (None, False),
    "do_not_save_grid": (None, False, True), "s_min_uncond": (None, 0), "s_churn": (None, 0), "s_tmax": (None, 0),
    "s_tmin": (None, 0), "s_noise": (None, 1), "override_settings_restore_afterwards": (None, True),
    "refiner_checkpoint": (None, "", "None"), "refiner_switch_at": (None, 0), "disable_extra_networks": (None, False),
    "firstpass_image": (None, ""), "firstphase_width": (None, 0), "firstphase_height": (None, 0),
    "hr_resize_x": (None, 0), "hr_resize_y": (None, 0), "hr_checkpoint_name": (None, "", "Use same checkpoint"),
    "hr_sampler_name": (None, "", "Use same sampler"), "hr_scheduler": (None, "", "Use same scheduler"),
    "hr_prompt": (None, ""), "hr_negative_prompt": (None, ""), "script_name": (None, "", "None"),
    "script_args": (None, []), "alwayson_scripts": (None, {}), "infotext": (None, ""), "comments": (None, {}),
    "force_task_id": (None, ""), "image_cfg_scale": (None, 1.5), "initial_noise_multiplier": (None, 1),
    "latent_mask": (None, ""), "include_init_images": (None, False), "mask_blur_x": (None, 4),
    "mask_blur_y": (None, 4), "mask_round": (None, True),
}
OFF_EXTRAS: dict[str, tuple[Any, ...]] = {
    "show_extras_results": (None, True, False), "gfpgan_visibility": (None, 0), "codeformer_visibility": (None, 0),
    "codeformer_weight": (None, 0), "upscaler_2": (None, "", "None"), "extras_upscaler_2_visibility": (None, 0),
    "upscale_first": (None, False),
}


class UnknownName(ValueError):
    """A name of something that is not there."""


class Fields(BaseModel):
    """A request: what is declared is checked, the rest is kept for `unknown_fields`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Drawing(Fields):
    """The fields that txt2img and img2img share."""

    prompt: str = Field("", max_length=PROMPT_CHARS, description="<lora:name:0.8> puts on a LoRA of the folder `loras`")
    negative_prompt: str = Field("", max_length=PROMPT_CHARS)
    seed: int = Field(-1, ge=-1, le=2**53, description="-1 draws one at random; picture i has seed + i")
    subseed: int = Field(-1, ge=-1, le=2**53, description="seed of a variation, -1 at random")
    subseed_strength: float = Field(0.0, ge=0, le=1, description="how far to go towards the variation")
    sampler_name: str | None = Field(None, description="a name of /sdapi/v1/samplers")
    sampler_index: str | None = Field("Euler", description="older word for `sampler_name`, which wins")
    scheduler: str | None = Field(None, description="a name of /sdapi/v1/schedulers")
    batch_size: int = Field(1, ge=1, le=16, description="pictures drawn at once")
    n_iter: int = Field(1, ge=1, le=100, description="batches drawn one after the other")
    steps: int = Field(50, ge=1, le=150)
    cfg_scale: float = Field(7.0, ge=0, le=100)
    width: int = Field(512, ge=64, le=2048, multiple_of=8)
    height: int = Field(512, ge=64, le=2048, multiple_of=8)
    eta: float | None = Field(None, ge=0, le=1, description="fresh noise of DDIM")
    override_settings: dict[str, Any] | None = Field(None, description="options of this request alone")
    send_images: bool = Field(True, description="whether the reply holds the pictures")
    save_images: bool = Field(False, description="without effect: every picture is kept, to survive a restart")
    preset: str = Field("ldm", description="our own: \"a1111\" takes A1111's noise levels, start and random numbers")


class Txt2Img(Drawing):
    """Body of /sdapi/v1/txt2img."""

    enable_hr: bool = Field(False, description="draw, enlarge by Lanczos, draw again")
    hr_scale: float = Field(2.0, ge=1, le=4)
    hr_upscaler: str | None = Field(None, description="\"Latent\" and \"Lanczos\" both enlarge by Lanczos")
    hr_second_pass_steps: int = Field(0, ge=0, le=150, description="0, or as `steps`")
    denoising_strength: float | None = Field(None, ge=0, le=1, description="of the second pass, 0.75 where not given")


class Img2Img(Drawing):
    """Body of /sdapi/v1/img2img; with a mask it repaints a part."""

    init_images: list[str] = Field(min_length=1, max_length=1, description="one picture, in base64")
    resize_mode: int = Field(0, ge=0, le=2, description="to width x height: 0 stretched, 1 cropped, 2 filled up")
    denoising_strength: float = Field(0.75, ge=0, le=1)
    mask: str | None = Field(None, description="in base64, white where to repaint; else, what is opaque")
    mask_blur: float | None = Field(4, ge=0, le=64)
    inpainting_fill: int = Field(0, ge=0, le=1, description="start from 0 the surroundings carried on, 1 the picture")
    inpaint_full_res: bool | int = Field(True, description="paint the masked part alone, at width x height")
    inpaint_full_res_padding: int = Field(0, ge=0, le=512, description="pixels around that part")
    inpainting_mask_invert: int = Field(0, ge=0, le=1, description="1 repaints what is black")


class Extras(Fields):
    """Body of /sdapi/v1/extra-single-image."""

    image: str = Field(description="in base64")
    resize_mode: int = Field(0, ge=0, le=1, description="0 by a factor, 1 to a size")
    upscaling_resize: float = Field(2.0, gt=0, le=8)
    upscaling_resize_w: int = Field(512, ge=1, le=8192)
    upscaling_resize_h: int = Field(512, ge=1, le=8192)
    upscaling_crop: bool = Field(True, description="crop to the size, rather than stay within it")
    upscaler_1: str = Field("None", description="a name of /sdapi/v1/upscalers")


class Encoded(Fields):
    """A picture."""

    image: str = Field(description="in base64")


class Mistake(BaseModel):
    """What is wrong, in a line."""

    detail: str


def unknown_fields(fields: Mapping[str, Any], off: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Notes on fields that nobody knows.  Raises ValueError for one that is known, but asks for what is not there."""
    for name, value in fields.items():
        if name in off and value not in off[name]:
            raise ValueError(f"{name} is not supported, and its value is not A1111's default; leave it out")
    return [f"field {name!r} is unknown and was ignored" for name in fields if name not in off]


def find_sampler(name: str) -> tuple[str, str | None]:
    """A1111's name of a sampler, in upper or lower case, perhaps with a schedule at its end -> ours, and the spacing.

    "Automatic" is A1111's default, Euler.  Raises UnknownName.
    """
    called = name.strip().casefold()
    first, _, last = called.rpartition(" ")
    if called == "automatic":
        return "euler", None
    if called in SAMPLING:
        return SAMPLING[called], None
    if first in SAMPLING and last in ("karras", "exponential"):
        return SAMPLING[first], SPACES[last]
    raise UnknownName(f"sampler {name[:100]!r} is unknown; try one of {', '.join(OUR_SAMPLERS)}")


def find_spacing(name: str) -> str | None:
    """A1111's name of a schedule -> our spacing; None for that of the sampler.  Raises UnknownName."""
    called = name.strip().casefold()
    if called not in SPACES:
        raise UnknownName(f"scheduler {name[:100]!r} is unknown; try one of {', '.join(OUR_SPACINGS)}")
    return SPACES[called]


def find_source(name: Any) -> str:
    """A1111's name of where noise comes from -> ours.  Raises UnknownName."""
    called = str(name).upper()
    if called not in OUR_SOURCES:
        raise UnknownName(f"randn_source {called[:100]!r} is unknown; try one of {', '.join(OUR_SOURCES)}")
    return OUR_SOURCES[called]
