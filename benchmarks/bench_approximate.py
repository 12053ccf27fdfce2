"""Time and quality of the opt-in approximations, step cache and guidance interval, on the bundled model.

    python benchmarks/bench_approximate.py

Each prompt is drawn with every setting in turn.  Times are of a picture's sampling and decoding, batch 1; PSNR is
that of the picture against the exact one of the same prompt, seed and precision.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import report
import torch
from harness import spread
from torch import Tensor

from ldm import Pipeline

THINGS = ("fox", "cat", "dog", "frog", "tiger", "whale", "mushroom", "cactus",
          "pizza", "hamburger", "banana", "rocket", "bicycle", "guitar", "lollipop", "star")
INTERVAL = {"guidance_min_sigma": 0.3, "guidance_max_sigma": 5.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "cache 2": {"cache": 2},
    "cache 3": {"cache": 3},
    "cache 5": {"cache": 5},
    "guidance from 5 to 0.3": INTERVAL,
    "guidance from 14.7 to 1": {"guidance_min_sigma": 1.0},
    "cache 2, guidance from 5 to 0.3": {"cache": 2, **INTERVAL},
}


def draw(pipe: Pipeline, prompt: str, **settings: Any) -> tuple[Tensor, float]:
    """A picture [3 H W] in [-1, 1], and the seconds it took."""
    start = time.perf_counter()
    *_, last = pipe.steps(prompt, **settings)
    picture = pipe.decode_latents(last.z)[0]
    return picture.float().clamp(-1, 1), time.perf_counter() - start


def psnr(picture: Tensor, exact: Tensor) -> float:
    """Peak signal to noise ratio in dB of two pictures in [-1, 1]."""
    error = (picture - exact).square().mean().item()
    return 10 * math.log10(2**2 / error) if error else math.inf


def measure(pipe: Pipeline, prompts: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """One row of figures per setting, the exact one first."""
    draw(pipe, prompts[0], steps=steps)                 # warm
    times_s: dict[str, list[float]] = {name: [] for name in SETTINGS}
    quality: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for seed, prompt in enumerate(prompts):
        exact = None
        for name, settings in SETTINGS.items():
            picture, taken_s = draw(pipe, prompt, steps=steps, seed=seed, **settings)
            exact = picture if exact is None else exact
            times_s[name].append(taken_s)
            quality[name].append(psnr(picture, exact))
    table = [{"name": name, **spread(times_s[name]), "ratio": median(times_s[name]) / median(times_s["exact"]),
              "psnr_median_db": median(quality[name]), "psnr_min_db": min(quality[name])} for name in SETTINGS]
    del table[0]["psnr_median_db"], table[0]["psnr_min_db"]                 # the exact picture against itself
    return table


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", type=Path, help="model file (default: the bundled model)")
    p.add_argument("--dtype", default="auto", help="precision (default: bfloat16 where the hardware has it)")
    p.add_argument("--prompts", type=int, default=len(THINGS), help=f"how many of the {len(THINGS)} prompts to draw")
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default 30)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: every core)")
    p.add_argument("--name", default="approximate", help="of the files in benchmarks/results (default approximate)")
    args = p.parse_args()
    if not 1 <= args.prompts <= len(THINGS):
        p.error(f"prompts {args.prompts} is outside 1..{len(THINGS)}")
    torch.set_num_threads(args.threads)
    pipe = Pipeline.load(args.ckpt, "cpu", args.dtype)
    prompts = [f"3d render of a {thing}" for thing in THINGS[: args.prompts]]
    title = (f"Approximations: {len(prompts)} prompts, {args.steps} steps, {pipe.size} px, "
             f"{str(pipe.dtype).removeprefix('torch.')}")
    report.write(args.name, [{"title": title, "rows": measure(pipe, prompts, args.steps)}])


if __name__ == "__main__":
    main()
