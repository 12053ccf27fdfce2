"""Time loading, and measure memory: of a whole run, over ten pictures and over switches of the model.

    python benchmarks/bench_load.py [--ckpt FILE]

Loading is timed from the start of a fresh process until it is ready to sample, against a process that imports torch
and reads the same file into fresh bfloat16 memory, in turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import contenders
import harness
import report

TXT2IMG = Path(__file__).parents[1] / "scripts" / "txt2img.py"
PICTURES, SWITCHES = 10, 3


def ready(ckpt: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fresh processes, A B A B ...; the page cache holds the file, for a run before these read it."""
    racing = [harness.Contender("ready to sample", "loading:ready", {"ckpt": ckpt}),
              harness.Contender("import torch, read the file", "loading:floor", {"ckpt": ckpt})]
    for contender in racing:
        harness.first_answer(contender, args.threads)
    answers = [[harness.first_answer(contender, args.threads) for contender in racing] for _ in range(args.repeats)]
    rows = []
    for contender, given in zip(racing, zip(*answers, strict=True), strict=True):
        rows.append({"name": contender.name, **harness.spread([answer["cold_s"] for answer in given]),
                     "peak_mib": max(answer["peak_mib"] for answer in given)})
        rows[-1]["ratio"] = rows[-1]["median_s"] / rows[0]["median_s"]
    return {"title": "Loading, in a fresh process", "rows": rows}


def again(ckpt: str, args: argparse.Namespace) -> dict[str, Any]:
    """The same file once more in the same process."""
    return harness.compare("Loading again, in the same process",
                           [harness.Contender("ready to sample", "loading:ready", {"ckpt": ckpt})], args)


def peak(ckpt: str, args: argparse.Namespace) -> dict[str, Any]:
    """Peak of resident memory of one run of txt2img.py.  Raises CalledProcessError where the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TXT2IMG), "3d render of a fox", "--ckpt", ckpt, "--out", folder, "--dtype",
                   "bfloat16", "--steps", str(args.steps), "--width", "512", "--height", "512"]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
                                   stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "txt2img.py")
    return {"title": f"Memory of a whole run of txt2img.py, 512 px, {args.steps} steps, bfloat16",
            "rows": [{"name": "txt2img.py", "peak_mib": usage.ru_maxrss / 1024}]}


def growth(title: str, contender: harness.Contender, calls: int, threads: int) -> dict[str, Any]:
    """Memory held after each call."""
    with harness.working(contender, threads) as worker:
        for _ in range(calls - 1):
            worker.sample()
    rows = [{"name": f"{i}", "resident_mib": answer["resident_mib"]} for i, answer in enumerate(worker.answers, 1)]
    return {"title": title, "rows": rows}


def main() -> None:
    p = harness.parser(__doc__, "load", repeats=5)
    p.add_argument("--ckpt", type=Path, help="official .safetensors file (default: a random one, made once)")
    p.add_argument("--steps", type=int, default=4, help="sampling steps of the whole run (default 4)")
    args = p.parse_args()
    ckpt = str(args.ckpt or contenders.random_checkpoint(args.cache))
    drawing = harness.Contender("pictures", "pictures:growth", {"steps": 10})
    switching = harness.Contender("switches", "pictures:switches", {"ckpt": ckpt, "size": 256})
    report.write(args.name, [
        ready(ckpt, args), again(ckpt, args), peak(ckpt, args),
        growth("Memory after each of ten pictures, bundled model", drawing, PICTURES, args.threads),
        growth("Memory after each switch, bundled model to the file", switching, SWITCHES + 1, args.threads)])


if __name__ == "__main__":
    main()
