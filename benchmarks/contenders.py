"""Who runs: names on the command line -> contenders.  Imports no torch; see harness.py."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import HERE, MATMUL, Contender, compare, first_answer

BF16, FP32 = "bfloat16", "float32"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ldm": ("networks:ldm", {"dtype": BF16, "kernels": "auto"}),
    "ldm-portable": ("networks:ldm", {"dtype": BF16, "kernels": "portable"}),
    "ldm-plain": ("networks:ldm", {"dtype": BF16, "kernels": "plain"}),
    "ldm-fp32": ("networks:ldm", {"dtype": FP32, "kernels": "auto"}),
    "diffusers-fp32": ("networks:diffusers", {"dtype": FP32}),
    "diffusers-bf16": ("networks:diffusers", {"dtype": BF16}),
    "diffusers-bf16-channels_last": ("networks:diffusers", {"dtype": BF16, "channels_last": True}),
    "openvino-bf16": ("networks:openvino", {"precision": "bf16"}),
    "openvino-fp32": ("networks:openvino", {"precision": "f32"}),
}
USUAL = ["ldm", "ldm-portable", "diffusers-bf16-channels_last", "openvino-bf16"]


def add_contenders(p: argparse.ArgumentParser) -> None:
    """The flag that says who runs."""
    p.add_argument("--contenders", nargs="+", choices=NETWORKS, default=USUAL, metavar="NAME",
                   help=f"of {', '.join(NETWORKS)}; the others are compared with the first (default {' '.join(USUAL)})")


def network(name: str, kind: str, size: int, batch: int, cache: str) -> Contender:
    """A contender for one kind of network and size."""
    target, arguments = NETWORKS[name]
    extra = {"cache": cache} if target == "networks:openvino" else {}
    return Contender(name, target, {"kind": kind, "size": size, "batch": batch, **arguments, **extra})


def compare_networks(names: Sequence[str], kind: str, size: int, batch: int,
                     args: argparse.Namespace) -> dict[str, Any]:
    """Race networks of one kind and size, and the product that shows the peak -> a table for `report.write`."""
    counter = Contender("flops", "networks:flops", {"kind": kind, "size": size, "batch": batch})
    flops = first_answer(counter, args.threads)["flops"]
    racing = [network(name, kind, size, batch, str(args.cache)) for name in names]
    return compare(f"{kind}, {size} px, batch {batch}", [*racing, MATMUL], args, flops)


def random_checkpoint(cache: Path) -> Path:
    """A file of Stable Diffusion 1.5's layout with random float16 weights, 2.1 GB, made once."""
    path = cache / "random.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        script = HERE.parent / "scripts" / "make_random_checkpoint.py"
        subprocess.run([sys.executable, str(script), str(path)], check=True)
    return path
