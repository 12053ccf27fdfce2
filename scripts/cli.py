"""What the command lines share: flags, progress, one-line errors."""

import argparse
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from tqdm import tqdm

from ldm import NonFiniteError, Pipeline
from ldm.attention import Kernels
from ldm.images import check_target, save_image
from ldm.pipeline import Plan
from ldm.prepare import describe
from ldm.settings import add_arguments

MISTAKES = (ValueError, OSError, NonFiniteError, MemoryError, torch.OutOfMemoryError, Image.DecompressionBombError,
            ModuleNotFoundError, subprocess.CalledProcessError)


def parser(doc: str | None, without: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """A parser with the flags of a model, the settings and the output."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", type=Path, help=".safetensors, .ckpt, .pt or diffusers folder (default: bundled model)")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder, or .png file, to write (default out)")
    add_arguments(p, without)
    p.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    p.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"],
                   help="precision (default: bfloat16 where the hardware has it)")
    p.add_argument("--kernels", default="auto", choices=get_args(Kernels),
                   help="auto: the fastest exact ones; portable: none compiled; plain: PyTorch's own (default auto)")
    p.add_argument("--verbose", action="store_true", help="say how each network was prepared")
    p.add_argument("--no-ema", action="store_true", help="take the raw weights of a file that has EMA twins")
    return p


def positive(text: str) -> int:
    """A number of things on a command line: 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def draw(pipe: Pipeline, plan: Plan, out: Path, image: Image.Image | None = None) -> None:
    """Sample with a progress bar, decode, save; prints the path of each picture."""
    steps = tqdm(pipe.sample(plan, image), total=len(plan.sigmas) - 1, unit="step")
    for picture in pipe.finish(plan, deque(steps, maxlen=1).pop(), image):
        print(save_image(picture, out))


def load(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the flags ask for, after a look at the output, so that no work is lost."""
    check_target(args.out)
    pipe = Pipeline.load(args.ckpt, device=args.device, dtype=args.dtype, ema=not args.no_ema, kernels=args.kernels)
    if args.verbose:
        for name in ("text", "unet", "vae"):
            print(f"{name}: {describe(getattr(pipe, name))}", file=sys.stderr)
    return pipe


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user's mistake becomes one line on stderr and exit code 2, an interrupt 130."""
    name = Path(sys.argv[0]).stem
    warnings.showwarning = lambda message, *_, **__: print(f"{name}: {message}", file=sys.stderr)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except MISTAKES as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
