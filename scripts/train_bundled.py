"""Make the bundled model again, from nothing: pictures, VAE, latents, UNet.

    python scripts/train_bundled.py --work DIR

Every stage resumes where it was interrupted; what is there already is not made again.  Needs npm (for the pictures) and
about three hours on 2 cores.  The result is DIR/unet/model.safetensors, and DIR/bundled.safetensors in float16.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import cli
import torch

from ldm import Pipeline

HERE = Path(__file__).parent
VAE = ["--steps", "3600", "--batch", "16", "--lr", "0.002", "--every", "200", "--bf16"]
UNET = ["--channels", "64", "--multipliers", "1", "2", "3", "--attn", "1", "1", "1", "--batch", "32", "--lr", "0.001",
        "--every", "500", "--bf16"]
STEPS = 5500, 9000                                      # to the first the rate falls to 0; it starts again at a third


def stage(script: str, *args: str | int | Path, unless: Path | None = None) -> None:
    """Run a script, unless the file that it makes last is there."""
    if unless is None or not unless.exists():
        subprocess.run([sys.executable, str(HERE / script), *map(str, args)], check=True)


def save_half(model: Path, out: Path) -> None:
    """Write a model in float16, with only the rows of its vocabulary that it was trained on."""
    pipe = Pipeline.load(model, device="cpu", dtype=torch.float16)
    pipe.save(out, pipe.vocabulary)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder for pictures, checkpoints and the result")
    work = p.parse_args().work
    npm, all_objects, named, vae, unet = (work / name for name in ("npm", "all", "named", "vae", "unet"))
    stage("emoji.py", "--source", npm, "--out", all_objects, "--objects", "all", "--white", "6", "--coloured", "1",
          unless=all_objects / "metadata.jsonl")
    stage("train_vae.py", "--data", all_objects, "--out", vae, *VAE, unless=vae / "vae.safetensors")
    stage("emoji.py", "--source", npm, "--out", named, "--white", "8", "--coloured", "1",
          unless=named / "metadata.jsonl")
    for steps in STEPS:                                 # each goes on where the last one stopped
        stage("train_unet.py", "--data", named, "--vae", vae / "vae.safetensors", "--out", unet, "--steps", steps,
              *UNET)
    save_half(unet / "model.safetensors", work / "bundled.safetensors")


if __name__ == "__main__":
    cli.run(main)
