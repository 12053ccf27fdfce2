"""Requests in A1111's words -> orders."""

import secrets
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ldm.images import on_white
from ldm.plugins import extract_loras
from ldm.plugins.folders import search
from ldm.web import fitting, uploads
from ldm.web.a1111 import (
    BATCH_PIXELS,
    OFF,
    OFF_EXTRAS,
    Drawing,
    Extras,
    Img2Img,
    Txt2Img,
    UnknownName,
    find_sampler,
    find_source,
    find_spacing,
    unknown_fields,
)
from ldm.web.options import Options, changed
from ldm.web.orders import Order, TaskName
from ldm.web.studio import Studio

ETA_FIXED = ("euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde")       # at 1, A1111's default for them
UPSCALERS = {"None": None, "Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
RANDOM_SEEDS = 2**32 - 1


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    orders: list[Order]                                 # to draw one after the other
    options: Options
    notes: list[str]                                    # what of it has no effect


def txt2img(body: Txt2Img, options: Options, studio: Studio) -> Asked:
    """Raises ValueError for what is refused, UnknownName for a name of something that is not there."""
    settings, options, notes = common(body, options, studio)
    if not body.enable_hr:
        check_size(body.width, body.height, body.batch_size)
        return Asked(spread(body, settings, options), options, notes)
    check_size(round(body.width * body.hr_scale), round(body.height * body.hr_scale), 1)
    check_size(body.width, body.height, body.batch_size)
    if body.subseed_strength:
        raise ValueError(f"subseed_strength {body.subseed_strength} does not go with enable_hr; leave out one of them")
    if body.hr_second_pass_steps not in (0, body.steps):
        raise ValueError(f"hr_second_pass_steps {body.hr_second_pass_steps} differs from steps {body.steps}; "
                         "both passes have as many: leave it at 0")
    if body.hr_upscaler not in (None, "None", "Lanczos", "Latent"):
        raise UnknownName(f"hr_upscaler {body.hr_upscaler[:100]!r} is unknown; try Lanczos")
    if body.hr_upscaler != "Lanczos":
        notes.append("the picture was enlarged by Lanczos between the passes")
    settings["strength"] = 0.75 if body.denoising_strength is None else body.denoising_strength
    return Asked(spread(body, settings, options, "upscale", told={"scale": body.hr_scale}), options, notes)


def img2img(body: Img2Img, options: Options, studio: Studio) -> Asked:
    """Raises as `txt2img`, and TooLarge for a picture of too many bytes or pixels."""
    check_size(body.width, body.height, body.batch_size)
    settings, options, notes = common(body, options, studio)
    settings["strength"] = body.denoising_strength
    image = on_white(uploads.from_base64(body.init_images[0]))
    size = body.width, body.height
    if body.mask is None:
        image = fitting.fit(image, size, body.resize_mode)
        return Asked(spread(body, settings, options, "img2img", image=image), options, notes)
    if body.subseed_strength:
        raise ValueError(f"subseed_strength {body.subseed_strength} does not go with a mask; leave out one of them")
    mask = fitting.read_mask(uploads.from_base64(body.mask), image.size, bool(body.inpainting_mask_invert))
    if body.inpaint_full_res:
        settings["only_masked"] = body.inpaint_full_res_padding
    else:
        image, mask = (fitting.fit(picture, size, body.resize_mode) for picture in (image, mask))
    if body.inpainting_fill == 0:
        image = fitting.fill(image, mask)
    settings["mask_blur"] = 4.0 if body.mask_blur is None else body.mask_blur
    return Asked(spread(body, settings, options, "inpaint", image=image, mask=mask), options, notes)


def common(body: Drawing, options: Options, studio: Studio) -> tuple[dict[str, Any], Options, list[str]]:
    """Settings of a request, the options that hold for it, and notes."""
    notes = unknown_fields(body.model_extra or {}, OFF)
    options, more = changed(options, body.override_settings or {}, studio)
    sampler, spacing = find_sampler(body.sampler_name or body.sampler_index or "Automatic")
    spacing = find_spacing(body.scheduler or "Automatic") or spacing
    if sampler in ETA_FIXED and body.eta not in (None, 1):
        raise ValueError(f"eta {body.eta} is not A1111's default for {body.sampler_name or body.sampler_index}, and "
                         "other values are for DDIM alone; leave it out")
    check_loras(body.prompt, studio)
    settings = {
        "negative_prompt": body.negative_prompt, "steps": body.steps, "guidance": body.cfg_scale, "sampler": sampler,
        "spacing": spacing, "preset": body.preset, "eta": (body.eta or 0.0) if sampler == "ddim" else 0.0,
        "noise": find_source(options.randn_source) if options.randn_source else None, "width": body.width,
        "height": body.height, "clip_skip": options.CLIP_stop_at_last_layers,
    }
    return settings, options, [*notes, *more]


def spread(body: Drawing, settings: dict[str, Any], options: Options, task: TaskName = "txt2img",
           told: dict[str, Any] | None = None, image: Image.Image | None = None,
           mask: Image.Image | None = None) -> list[Order]:
    """One order for each batch of a request; of variations, whose seeds run otherwise, one for each picture.

    `told`: the options of the task.
    """
    def order(task: TaskName, seed: int, count: int, told: dict[str, Any]) -> Order:
        return Order(body.prompt, task, {**settings, "seed": seed, "count": count}, image, mask, told,
                     options.sd_model_checkpoint, options.vae, previews=options.live_previews_enable)

    seed, subseed = (secrets.randbelow(RANDOM_SEEDS) if s == -1 else s for s in (body.seed, body.subseed))
    if body.subseed_strength:
        return [order("variations", seed, 1, {"variation_seed": subseed + i,
                                              "variation_strength": body.subseed_strength})
                for i in range(body.n_iter * body.batch_size)]
    return [order(task, seed + i * body.batch_size, body.batch_size, told or {}) for i in range(body.n_iter)]


def check_size(width: int, height: int, count: int) -> None:
    """Raises ValueError for a batch of more than BATCH_PIXELS."""
    if width * height * count > BATCH_PIXELS:
        raise ValueError(f"{count} of {width}x{height} pixels are more than the {BATCH_PIXELS:,} drawn at once; "
                         "make them smaller, or lower batch_size and raise n_iter")


def check_loras(prompt: str, studio: Studio) -> None:
    """Raises UnknownName where a prompt names a LoRA that is not there, without saying where files lie."""
    for name, _ in extract_loras(prompt)[1]:
        try:
            search("loras", name, studio.models_dir)
        except ValueError as error:
            raise UnknownName(f"there is not just one LoRA {name[:100]!r}; /sdapi/v1/loras lists them") from error


def enlarged(body: Extras) -> tuple[Image.Image, list[str]]:
    """The picture of extra-single-image at its new size, and notes.  Raises ValueError, TooLarge, UnknownName."""
    notes = unknown_fields(body.model_extra or {}, OFF_EXTRAS)
    if body.upscaler_1 not in UPSCALERS:
        raise UnknownName(f"upscaler {body.upscaler_1[:100]!r} is unknown; try one of {', '.join(UPSCALERS)}")
    image, method = on_white(uploads.from_base64(body.image)), UPSCALERS[body.upscaler_1]
    if method is None:
        return image, notes
    by_factor, size = body.resize_mode == 0, (body.upscaling_resize_w, body.upscaling_resize_h)
    if by_factor:
        size = max(1, round(image.width * body.upscaling_resize)), max(1, round(image.height * body.upscaling_resize))
    uploads.check_pixels(*size)
    return (fitting.resize(image, size, method, crop=not by_factor and body.upscaling_crop)), notes
