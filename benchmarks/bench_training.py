"""Time a step of training against width, batch and resolution: samples per second, and the share of the peak.

    python benchmarks/bench_training.py

The bundled model's networks, and Stable Diffusion 1.5's UNet, which docs/planning.md computes a whole training from.
"""

import argparse
from dataclasses import replace
from typing import Any

import report
from harness import MATMUL, MATMUL_FLOPS, Contender, Unavailable, first_answer, parser, race, spread

SMALL = {"model": "small", "width": 64, "batch": 32, "size": 128, "checkpointing": False}
TABLES = {
    "Batch": [{**SMALL, "batch": n} for n in (4, 8, 16, 32, 64)],
    "Width": [{**SMALL, "width": n} for n in (32, 64, 96, 128)],
    "Resolution": [{**SMALL, "batch": 8, "size": n} for n in (64, 128, 256)],
    "Activation checkpointing": [{**SMALL, "checkpointing": value} for value in (False, True)],
    "Stable Diffusion 1.5, forward and backward": [
        {"model": "sd15", "width": 320, "batch": 1, "size": n, "checkpointing": True} for n in (256, 512)],
}


def contender(of: dict[str, Any]) -> Contender:
    name = f"width {of['width']}, batch {of['batch']}, {of['size']} px"
    return Contender(name + ", checkpointing" * of["checkpointing"], "training:step", of)


def measure(title: str, steps: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """A table: one row for each kind of step."""
    contenders = [contender(of) for of in steps]
    workers, left_out = race([*contenders, MATMUL], args.repeats, args.threads)
    times_s = {worker.name: [answer["time_s"] for answer in worker.answers[1:]] for worker in workers}
    peak = MATMUL_FLOPS / min(times_s[MATMUL.name])
    table = []
    for one, of in zip(contenders, steps, strict=True):
        if one.name not in times_s:
            continue
        worker = next(worker for worker in workers if worker.name == one.name)
        counted = first_answer(replace(one, target="training:flops"), args.threads)
        row = {"name": one.name, **spread(times_s[one.name]), "parameters": counted["parameters"],
               "peak_mib": worker.answers[-1]["peak_mib"]}
        per_s = counted["flops"] / row["median_s"]
        table.append({**row, "samples_per_s": of["batch"] / row["median_s"], "gflops": per_s / 1e9,
                      "of_peak": per_s / peak, "gflop_per_sample": counted["flops"] / of["batch"] / 1e9})
    if not table:
        raise Unavailable(f"no step could be taken: {left_out}")
    return {"title": title, "peak_gflops": peak / 1e9, "rows": table, "left_out": left_out}


def main() -> None:
    p = parser(__doc__, "training", repeats=5)
    args = p.parse_args()
    report.write(args.name, [measure(title, steps, args) for title, steps in TABLES.items()])


if __name__ == "__main__":
    main()
