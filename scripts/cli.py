"""What the command lines share: flags, progress, one-line errors."""

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn, get_args

import torch
from PIL import Image
from tqdm import tqdm

from ldm import NonFiniteError, Pipeline
from ldm.attention import Kernels
from ldm.images import check_target, save_image
from ldm.loading import PREDICTIONS
from ldm.plan import Plan
from ldm.plugins import extract_loras, find, name_and_weight, named_in
from ldm.prepare import describe, enough_memory
from ldm.samplers import Step
from ldm.settings import add_arguments
from ldm.weights.checkpoint import listing

MISTAKES = (ValueError, OSError, NonFiniteError, MemoryError, torch.OutOfMemoryError, Image.DecompressionBombError,
            ModuleNotFoundError, subprocess.CalledProcessError)
OF_MASKS = ("mask_blur", "only_masked")                 # settings that are nothing without a mask


class Parser(argparse.ArgumentParser):
    """A parser that says a mistake in one line, without the usage of all flags."""

    def __init__(self, doc: str | None):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{Path(self.prog).stem}: {message}; --help tells all flags\n")


class DrawingParser(Parser):
    """Takes each <lora:name:weight> out of the prompts, as if --lora said it."""

    def parse_args(self, *args, **kwargs) -> argparse.Namespace:
        parsed = super().parse_args(*args, **kwargs)
        found = [extract_loras(prompt) for prompt in prompts(parsed)]
        parsed.lora = [*dict.fromkeys([*parsed.lora, *(tag for _, tags in found for tag in tags)])]
        texts = [text for text, _ in found]
        vars(parsed).update({"prompts": texts} if "prompts" in parsed else {"prompt": texts[0]})
        return parsed


def prompts(args: argparse.Namespace) -> list[str]:
    return args.prompts if "prompts" in args else [args.prompt]


def parser(doc: str | None, without: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """A parser with the flags of a model, the settings and the output."""
    p = DrawingParser(doc)
    p.add_argument("--ckpt", help=".safetensors, .ckpt, .pt or diffusers folder, or its name in models/ "
                                  "(default: bundled model)")
    p.add_argument("--lora", type=name_and_weight, action="append", default=[], metavar="NAME:WEIGHT",
                   help="put a LoRA on: a file, or its name in loras/; <lora:name:weight> in the prompt does the same")
    p.add_argument("--embedding", action="append", default=[], metavar="NAME",
                   help="teach the prompts a textual inversion: a file, or its name in embeddings/; where a prompt has "
                        "the name itself, it is found without this")
    add_models_dir(p)
    p.add_argument("--out", type=Path, default=Path("out"), help="folder, .png, .jpg or .webp to write (default out)")
    p.add_argument("--plan", action="store_true", help="say what would be done, step by step, and draw nothing")
    add_arguments(p, without)
    add_device(p)
    p.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"],
                   help="precision (default: bfloat16 where the hardware has it)")
    p.add_argument("--kernels", default="auto", choices=get_args(Kernels),
                   help="auto: the fastest exact ones; portable: none compiled; plain: PyTorch's own (default auto)")
    p.add_argument("--prediction", choices=PREDICTIONS, help="what the network predicts (default: as the file says)")
    p.add_argument("--vae", help="file, or its name in models/, whose VAE, or tiny autoencoder, to take (default: the "
                                 "model's own)")
    p.add_argument("--verbose", action="store_true", help="say how each network was prepared")
    p.add_argument("--no-ema", action="store_true", help="take the raw weights of a file that has EMA twins")
    return p


def add_models_dir(p: argparse.ArgumentParser, kinds: str = "models, loras, embeddings and controlnets") -> None:
    """The flag that says where files are found by name; `kinds` are the folders that the program looks into."""
    p.add_argument("--models-dir", type=Path, help=f"where the folders {kinds} are (default: the environment variable "
                                                   "LDM_MODELS, or here)")


def add_device(p: argparse.ArgumentParser) -> None:
    """The flag that says on what to compute."""
    p.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")


def positive(text: str) -> int:
    """A number of things on a command line: 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def draw(pipe: Pipeline, plan: Plan, args: argparse.Namespace) -> None:
    """Sample with a progress bar, decode, save, and print the path of each picture; with --plan print that alone."""
    if args.plan:
        print(plan.describe())
        return
    for picture in pipe.draw(plan, bar(plan)):
        print(save_image(picture, args.out))


def bar(plan: Plan) -> Callable[[Iterator[Step]], Iterable[Step]]:
    """A progress bar for the steps of a plan."""
    return partial(tqdm, total=len(plan.sigmas) - 1, unit="step")


def load(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the flags ask for, after a look at the output, so that no work is lost."""
    check_target(args.out)
    ckpt, vae = (find("models", name, args.models_dir) if name is not None else None for name in (args.ckpt, args.vae))
    loras = [(find("loras", name, args.models_dir), weight) for name, weight in args.lora]
    embeddings: dict[Path, str | None] = dict.fromkeys(find("embeddings", name, args.models_dir)
                                                       for name in args.embedding)
    embeddings |= {path: word for word, path in named_in([*prompts(args), args.negative_prompt],
                                                         args.models_dir).items()}
    pipe = Pipeline.load(ckpt, device=args.device, dtype=args.dtype, ema=not args.no_ema, kernels=args.kernels,
                         prediction=args.prediction, vae=vae)
    for path, weight in loras:
        lora = pipe.load_lora(path, weight)
        if lora.unmatched:
            warnings.warn(f"LoRA {lora.name}: {len(lora.unmatched)} of its tensors fit no layer of this model "
                          f"({listing(lora.unmatched)})", stacklevel=2)
    for path, word in embeddings.items():
        pipe.load_embedding(path, word)
    if args.verbose:
        for name in ("text", "unet", "vae"):
            print(f"{name}: {describe(getattr(pipe, name))}", file=sys.stderr)
    return pipe


def in_words(error: BaseException) -> str:
    """What a mistake was; of the system's own errors the file, the reason and the remedy, without their number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be used ({error.strerror}); check the path"
    return str(error)


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user's mistake becomes one line on stderr and exit code 2, an interrupt 130."""
    name = Path(sys.argv[0]).stem
    warnings.showwarning = lambda message, *_, **__: print(f"{name}: {message}", file=sys.stderr)
    try:
        with enough_memory():
            main()
    except KeyboardInterrupt:
        sys.exit(130)
    except MISTAKES as error:
        print(f"{name}: {in_words(error)}", file=sys.stderr)
        sys.exit(2)
