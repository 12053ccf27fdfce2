"""Write a model with random weights in an official Stable Diffusion layout, for tests of loading and speed.

    python scripts/make_random_checkpoint.py random.safetensors [--family sd2] [--tiny]

float16; 2.1 GB for Stable Diffusion 1.5, or 9 MB with --tiny.  A .safetensors file is written tensor by tensor; a .ckpt
is built in memory.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import cli
import torch
from torch import Tensor

from ldm.files import write_atomically
from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import rows as text_rows
from ldm.unet import UNet, UNetConfig
from ldm.unet.names import rows as unet_rows
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows as vae_rows
from ldm.weights import openclip
from ldm.weights.saving import official_part

SD2 = UNetConfig(context_width=1024, linear_proj=True, head_channels=64)
X4 = UNetConfig(in_channels=7, channels=256, multipliers=(1, 2, 2, 4), attn_levels=(False, True, True, True),
                cross_only=(False, True, True, False), context_width=1024, linear_proj=True, classes=1000)
OPEN_CLIP = CLIPTextConfig(width=1024, layers=23, open_clip=True)
FULL = {
    "sd1": (UNetConfig(), VAEConfig(), CLIPTextConfig()),
    "sd1_inpaint": (UNetConfig(in_channels=9), VAEConfig(), CLIPTextConfig()),
    "sd2": (SD2, VAEConfig(), OPEN_CLIP),
    "sd2_inpaint": (replace(SD2, in_channels=9), VAEConfig(), OPEN_CLIP),
    "x4": (X4, VAEConfig(multipliers=(1, 2, 4), scale_factor=0.08333), OPEN_CLIP),
}


def tiny(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig) -> tuple[UNetConfig, VAEConfig, CLIPTextConfig]:
    """The same layout at the smallest widths that tell the family."""
    text = replace(text, width=128 if unet.classes else 64, layers=2)
    levels = dict(multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False))
    if unet.classes:                                    # first attention to the text, then to the picture
        levels = dict(multipliers=(1, 2, 4), attn_levels=(False, True, True), cross_only=(False, True, False))
    unet = replace(unet, **levels, channels=unet.head_channels or 32, res_blocks=1, context_width=text.width)
    return unet, replace(vae, channels=32, multipliers=(1,) * len(vae.multipliers), res_blocks=1), text


def official_shapes(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig) -> dict[str, torch.Size]:
    """Every tensor of an official file, by name; OpenCLIP whole, with the layer and projection that are not used."""
    text = replace(text, layers=text.layers + text.open_clip)
    with torch.device("meta"):
        states = {"unet": (UNet(unet), unet_rows(unet)), "vae": (VAE(vae), vae_rows(vae)),
                  "text": (CLIPText(text), text_rows(text))}
        shapes = {name: tensor.shape for part, (model, rows) in states.items()
                  for name, tensor in official_part(part, model.state_dict(), rows).items()}
    if text.open_clip:
        shapes[f"{openclip.PREFIX}{openclip.PROJECTION}"] = torch.Size((text.width, text.width))
        shapes[f"{openclip.PREFIX}logit_scale"] = torch.Size(())
    return shapes


def random_tensors(shapes: dict[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """One float16 tensor at a time: weights of variance 1 / fan-in, norms about 1, biases about 0."""
    rng = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=rng)
        if len(shape) > 1:
            yield name, (noise / prod(shape[1:]) ** 0.5).half()
        else:
            yield name, (0.02 * noise + (1 if name.endswith("weight") else 0)).half()


def write_safetensors(path: Path, shapes: dict[str, torch.Size], seed: int) -> None:
    """Header of names, shapes and offsets, then the numbers (huggingface/safetensors README)."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                     # numbers begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in random_tensors(shapes, seed):
            file.write(tensor.numpy().data)


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("out", type=Path, help="file to write: .safetensors or .ckpt")
    p.add_argument("--family", choices=FULL, default="sd1", help="which layout (default sd1)")
    p.add_argument("--tiny", action="store_true", help="the same layout at the smallest widths")
    p.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    args = p.parse_args()
    if args.out.suffix not in (".safetensors", ".ckpt"):
        p.error(f"{args.out} is neither .safetensors nor .ckpt; try {args.out.with_suffix('.safetensors')}")
    shapes = official_shapes(*(tiny(*FULL[args.family]) if args.tiny else FULL[args.family]))
    if args.out.suffix == ".safetensors":
        write_atomically(args.out, lambda path: write_safetensors(path, shapes, args.seed))
    else:
        tensors = dict(random_tensors(shapes, args.seed))
        write_atomically(args.out, lambda path: torch.save({"state_dict": tensors}, path))


if __name__ == "__main__":
    cli.run(main)
