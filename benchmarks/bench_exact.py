"""How exact the fast path is: pictures of the bundled model against those of PyTorch's own layers in float32.

    python benchmarks/bench_exact.py
"""

import argparse
import math
from pathlib import Path
from statistics import median
from typing import Any

import report
import torch
from bench_approximate import THINGS, draw, psnr

from ldm import Pipeline
from ldm.prepare import describe

WAYS = [("float32", "auto"), ("float32", "portable"), ("bfloat16", "auto"), ("bfloat16", "portable"),
        ("bfloat16", "plain")]


def pictures(ckpt: Path | None, prompts: list[str], steps: int, **how: Any) -> tuple[str, list[torch.Tensor]]:
    """What was chosen for the UNet, and the pictures [3 H W] in [-1, 1]."""
    pipe = Pipeline.load(ckpt, "cpu", **how)
    drawn = [draw(pipe, prompt, steps=steps, seed=seed)[0] for seed, prompt in enumerate(prompts)]
    return describe(pipe.unet), drawn


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", type=Path, help="model file (default: the bundled model)")
    p.add_argument("--prompts", type=int, default=len(THINGS), help=f"how many of the {len(THINGS)} prompts to draw")
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default 30)")
    args = p.parse_args()
    prompts = [f"3d render of a {thing}" for thing in THINGS[: args.prompts]]
    how, plain = pictures(args.ckpt, prompts, args.steps, dtype="float32", kernels="plain")
    rows: list[dict[str, Any]] = [{"name": "float32 plain, the reference", "how": how}]
    for dtype, kernels in WAYS:
        how, drawn = pictures(args.ckpt, prompts, args.steps, dtype=dtype, kernels=kernels)
        quality = [psnr(picture, exact) for picture, exact in zip(drawn, plain, strict=True)]
        worst = max((picture - exact).abs().max().item() / 2 for picture, exact in zip(drawn, plain, strict=True))
        rows.append({"name": f"{dtype} {kernels}", "psnr_median_db": median(quality), "psnr_min_db": min(quality),
                     "worst": worst, "how": how})
    if not all(math.isfinite(row.get("worst", 0)) for row in rows):
        raise SystemExit("a picture is not finite")
    report.write("exact", [{"title": f"{len(prompts)} prompts, {args.steps} steps", "rows": rows}])


if __name__ == "__main__":
    main()
