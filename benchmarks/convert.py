"""Convert diffusers' UNet or VAE decoder, of Stable Diffusion 1.5's shape and random weights, to OpenVINO's format.

    python benchmarks/convert.py unet unet-512-2.xml --size 512 --rows 2

Static shapes; weights stored as float16.  The benchmarks call it where their cache lacks a model.
"""

import argparse
from pathlib import Path

import openvino
import torch
from networks import inputs, materialise, peer


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=["unet", "vae"])
    p.add_argument("out", type=Path, help=".xml file to write; the weights go beside it")
    p.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default 512)")
    p.add_argument("--rows", type=int, default=2, help="latents at a time (default 2)")
    args = p.parse_args()
    convert(args.kind, args.size, args.rows, args.out)


def convert(kind: str, size: int, rows: int, out: Path) -> None:
    """Trace the network and write it, first beside its place so that a broken file is never taken for a good one."""
    given = inputs(kind, size, rows, torch.float32)
    with torch.no_grad():
        model = openvino.convert_model(materialise(peer(kind), torch.float32), example_input=given,
                                       input=[list(x.shape) for x in given])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}-part.xml")
    openvino.save_model(model, part)                    # float16 weights by default
    for suffix in (".bin", ".xml"):                     # the .xml last: where it is, the model is whole
        part.with_suffix(suffix).replace(out.with_suffix(suffix))


if __name__ == "__main__":
    main()
