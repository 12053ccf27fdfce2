"""Make the bundled model again: pictures, VAE, UNet with its text encoder.

    python scripts/train_bundled.py --work DIR [--init ldm/bundled/model.safetensors] [--ranks 2]

What is there already is not made again, and trainings resume where they were interrupted.  --init goes on from a
finished model; without it, a new one first learns every third object, alone and in 3D.  After a round on all pictures
come two in which what is known worst comes most.  Needs npm (for the pictures).  The result is DIR/bundled.safetensors,
in float16.
"""

import subprocess
import sys
from pathlib import Path

import cli
import torch
from emoji_captions import glossary
from emoji_sprites import Sprites, download

from ldm import Pipeline
from ldm.text import Glossary, Tokenizer
from ldm.training.data import read_captions, vocabulary_of

HERE = Path(__file__).parent
SQUARES, LATENTS = 16, 64                               # samples of a step of VAE and UNet, over all ranks
VAE = ["--steps", 8000, "--lr", 0.001, "--every", 500, "--bf16"]
SHAPE = ["--channels", 64, "--multipliers", 1, 2, 3, "--attn", 1, 1, 1]
UNET = ["--every", 500, "--bf16", "--levels", 4]
FEW = ["--steps", 4500, "--lr", 0.001]
ROUND = ["--steps", 6000, "--lr", 0.0005, "--ema", 0.999]
AGAIN = 2                                               # rounds on pictures that are chosen by what is known


def stage(script: str, *args: object, ranks: int = 1, unless: Path | None = None) -> None:
    """Run a script, on so many processes, unless the file that it makes last is there."""
    if unless is None or not unless.exists():
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        subprocess.run([sys.executable, *several, str(HERE / script), *map(str, args)], check=True)


def train_vae(data: Path, out: Path, init: Path | None, ranks: int) -> Path:
    """The VAE of all pictures, from that of a model where there is one."""
    begin = ["--init", init] if init else []
    stage("train_vae.py", "--data", data, "--out", out, *begin, *VAE, "--batch", SQUARES // ranks, ranks=ranks,
          unless=out / "vae.safetensors")
    return out / "vae.safetensors"


def train_unet(data: Path, vae: Path, out: Path, *args: object, ranks: int) -> Path:
    """The UNet and its text encoder; resumed where it is not finished."""
    stage("train_unet.py", "--data", data, "--vae", vae, "--out", out, *UNET, *args, "--batch", LATENTS // ranks,
          ranks=ranks)
    return out / "model.safetensors"


def save_half(model: Path, out: Path, pictures: Path, source: Path) -> None:
    """Write a model in float16, with only the words of its captions, and a glossary that reads Chinese in these."""
    texts = [text if isinstance(text, list) else [text] for _, text in read_captions(pictures / "metadata.jsonl")]
    download(source)
    pipe, sprites = Pipeline.load(model, device="cpu", dtype=torch.float16), Sprites(source)
    pipe.tokenizer.glossary = Glossary(glossary([*sprites.objects, *sprites.people]))
    pipe.save(out, vocabulary_of(texts, Tokenizer(pipe.tokenizer.pad)))


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("--work", type=Path, required=True, help="folder for pictures, checkpoints and the result")
    p.add_argument("--source", type=Path, help="folder of npm packages (default WORK/npm)")
    p.add_argument("--init", type=Path, help="model file to start from (default: random weights)")
    p.add_argument("--ranks", type=cli.positive, default=1, help="processes that train together (default 1)")
    args = p.parse_args()
    if SQUARES % args.ranks:
        raise ValueError(f"ranks {args.ranks} do not divide a step's {SQUARES} samples; try 2")
    work, ranks, init = args.work, args.ranks, args.init
    source, pictures, few = args.source or work / "npm", work / "pictures", work / "few"
    stage("emoji.py", "--source", source, "--out", pictures, unless=pictures / "metadata.jsonl")
    vae = train_vae(pictures, work / "vae", init, ranks)
    if init is None:
        stage("emoji.py", "--source", source, "--out", few, "--few", unless=few / "metadata.jsonl")
        init = train_unet(few, vae, work / "first", *SHAPE, *FEW, ranks=ranks)
    model = train_unet(pictures, vae, work / "unet", "--init", init, *ROUND, ranks=ranks)
    for turn in range(1, 1 + AGAIN):
        chosen = work / f"pictures-{turn}"
        stage("emoji_resample.py", "--ckpt", model, "--data", pictures, "--source", source, "--out", chosen,
              "--seed", turn, unless=chosen / "metadata.jsonl")
        model = train_unet(chosen, vae, work / f"unet-{turn}", "--init", model, "--held-out-data", chosen / "held-out",
                           *ROUND, "--seed", turn, ranks=ranks)
    save_half(model, work / "bundled.safetensors", pictures, source)


if __name__ == "__main__":
    cli.run(main)
