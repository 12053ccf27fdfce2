"""What a file is, told from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = {
    "compvis": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model.transformer."},
    "diffusers": {"unet": "unet/", "vae": "vae/", "text": "text_encoder/"},
}
UNET = r"^(model\.diffusion_model\.|unet/|)"            # in a full file, a folder, or alone
VAE = r"^(first_stage_model\.|vae/|)"
MODELS = ("sd1", "sd1_inpaint", "sd2", "sd2_inpaint", "x4")             # families that the pipeline runs


class Kind(NamedTuple):
    """What a file is and why we think so."""

    family: str                                         # one of MODELS, "vae", "tiny", or what is not supported
    what: str                                           # in words, with its article
    because: str


# In order: the first whose name matches is it.
NAMED = [
    ("lora", "a LoRA", r"lora[._](up|down|A|B|unet|te)|hada_w\d|lokr_w\d|dora_scale"),
    ("controlnet", "a ControlNet", r"^control_model\.|input_hint_block\.|controlnet_"),
    ("embedding", "a textual inversion", r"^(string_to_param|emb_params$|clip_[lg]$)"),
    ("flux", "a Flux-like transformer", r"double_blocks\.|single_transformer_blocks\."),
    ("sd3", "an SD3-like transformer", r"joint_blocks\.|^transformer/transformer_blocks\."),
    ("dit", "a diffusion transformer", r"^transformer/"),
    ("sdxl", "Stable Diffusion XL", r"^conditioner\.embedders\.|label_emb\.0\.0\.|add_embedding\.|^text_encoder_2/"),
    ("tiny", "a tiny autoencoder", r"^((en|de)coder\.(layers\.)?)?\d+\.conv\.\d\.weight$"),
]
CONDITIONED = {5: "a depth model", 8: "an InstructPix2Pix model"}       # by input channels


def identify(shapes: Shapes) -> Kind:
    """Family of a file from its tensors.  Structure decides, never the width of the context."""
    for family, what, pattern in NAMED:
        name = find(shapes, pattern)
        if name:
            return Kind(family, what, f"it has {name}")
    if len(shapes) == 1 and all(len(shape) in (1, 2) and shape[-1] % 64 == 0 for shape in shapes.values()):
        return Kind("embedding", "a textual inversion", f"its one tensor, {next(iter(shapes))}, holds vectors")
    unet, vae = find(shapes, UNET + r".*proj_in\.weight$"), find(shapes, VAE + r"(encoder|decoder)\.conv_in\.weight$")
    text = find(shapes, r"token_embedding\.weight$")
    if unet and text and vae:
        return stable_diffusion(shapes, unet)
    parts = {"a UNet": unet, "a VAE": vae, "a text encoder": text}
    found = {part: name for part, name in parts.items() if name}
    family = "vae" if list(found) == ["a VAE"] else "parts"
    if found:
        return Kind(family, " and ".join(found) + " alone", f"it has {', '.join(found.values())} and none of the rest")
    some = ", ".join(list(shapes)[:3]) or "none"
    return Kind("unknown", "of a kind that we do not know", f"its tensors are {some}")


def stable_diffusion(shapes: Shapes, proj_in: str) -> Kind:
    """Which Stable Diffusion a whole model is.  `proj_in` is the name of the weight before some transformer."""
    label = find(shapes, UNET + r"(label_emb|class_embedding)\.weight$")
    if label:
        return Kind("x4", "the Stable Diffusion x4 upscaler", f"it has {label}")
    if len(shapes[proj_in]) == 2:
        kind = Kind("sd2", "Stable Diffusion 2", f"{proj_in} is linear")
    else:
        kind = Kind("sd1", "Stable Diffusion 1", f"{proj_in} is a 1x1 convolution")
    conv_in = find(shapes, UNET + r"(input_blocks\.0\.0|conv_in)\.weight$")
    channels = shapes[conv_in][1] if conv_in and len(shapes[conv_in]) > 1 else 4
    takes = f"{conv_in} takes {channels} channels"
    if channels in CONDITIONED:
        return Kind("conditioned", CONDITIONED[channels], takes)
    if channels == 9:
        return Kind(f"{kind.family}_inpaint", f"{kind.what} for inpainting", f"{kind.because}, and {takes}")
    return kind


def find(shapes: Shapes, pattern: str) -> str | None:
    """First name that matches."""
    search = re.compile(pattern).search
    return next((name for name in shapes if search(name)), None)
