"""Write a model with random weights in the official Stable Diffusion 1.5 layout, for tests of loading and speed.

    python scripts/make_random_checkpoint.py random.safetensors [--tiny]

float16; 2.1 GB, or 9 MB with --tiny.  A .safetensors file is written tensor by tensor; a .ckpt is built in memory.
"""

import argparse
import json
from collections.abc import Iterator
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
from ldm.weights.saving import PREFIXES, to_official

TINY = (UNetConfig(channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False), res_blocks=1,
                   context_width=64),
        VAEConfig(channels=32, multipliers=(1, 1, 1, 1), res_blocks=1),
        CLIPTextConfig(width=64, layers=2))


def official_shapes(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig) -> dict[str, torch.Size]:
    """Every tensor of an official file, by name."""
    with torch.device("meta"):
        states = {"unet": (UNet(unet), unet_rows(unet)), "vae": (VAE(vae), vae_rows(vae)),
                  "text": (CLIPText(text), text_rows(text))}
    return {name: tensor.shape for part, (model, rows) in states.items()
            for name, tensor in to_official(model.state_dict(), rows, PREFIXES[part]).items()}


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
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="file to write: .safetensors or .ckpt")
    p.add_argument("--tiny", action="store_true", help="the same layout at the smallest widths")
    p.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    args = p.parse_args()
    if args.out.suffix not in (".safetensors", ".ckpt"):
        p.error(f"{args.out} is neither .safetensors nor .ckpt; try {args.out.with_suffix('.safetensors')}")
    shapes = official_shapes(*(TINY if args.tiny else (UNetConfig(), VAEConfig(), CLIPTextConfig())))
    if args.out.suffix == ".safetensors":
        write_atomically(args.out, lambda path: write_safetensors(path, shapes, args.seed))
    else:
        tensors = dict(random_tensors(shapes, args.seed))
        write_atomically(args.out, lambda path: torch.save({"state_dict": tensors}, path))


if __name__ == "__main__":
    cli.run(main)
