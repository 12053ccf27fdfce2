"""What the benchmarks share: contenders in processes of their own, timed in turn, and what is written of them.

This process imports no torch: a process started from a large one is charged with its parent's peak of memory.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / "ldm-benchmarks"
MATMUL_FLOPS = 2 * 4096**3


class Unavailable(RuntimeError):
    """A contender cannot take part here.  The message says why."""


@dataclass(frozen=True)
class Contender:
    """Who is timed: "module:function" beside this file, and its arguments (JSON)."""

    name: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)


MATMUL = Contender("matmul", "networks:matmul")         # the measured peak: 4096^3 in bfloat16


class Worker:
    """A contender's process, ready: built, and called once."""

    def __init__(self, contender: Contender, threads: int):
        self.name = contender.name
        command = [sys.executable, str(HERE / "worker.py"), contender.target, json.dumps(contender.arguments)]
        start = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        try:
            self.answers = [self.read()]
        except Unavailable:
            self.close()
            raise
        self.cold_s = time.perf_counter() - start       # from nothing to the end of the first call

    def read(self) -> dict[str, Any]:
        """The next answer.  Raises Unavailable where there is none."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"{self.name} ended with exit code {self.process.wait()}; see what it wrote above")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def sample(self) -> dict[str, Any]:
        """Time one call."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(self.read())
        return self.answers[-1]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def working(contender: Contender, threads: int) -> Iterator[Worker]:
    """A worker that is ended in any case."""
    worker = Worker(contender, threads)
    try:
        yield worker
    finally:
        worker.close()


def first_answer(contender: Contender, threads: int) -> dict[str, Any]:
    """What a fresh process answers to its first call, with `cold_s`.  Raises Unavailable."""
    with working(contender, threads) as worker:
        return {**worker.answers[0], "cold_s": worker.cold_s}


def race(contenders: Sequence[Contender], repeats: int, threads: int) -> tuple[list[Worker], dict[str, str]]:
    """Start all, then time A B C A B C ...  -> the workers, ended, and why others could not take part, by name."""
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        workers = []
        for contender in contenders:
            try:
                workers.append(stack.enter_context(working(contender, threads)))
            except Unavailable as error:
                left_out[contender.name] = str(error)
        for _ in range(repeats):
            for worker in workers:
                worker.sample()
    return workers, left_out


def spread(times_s: Sequence[float]) -> dict[str, float]:
    return {"median_s": median(times_s), "min_s": min(times_s), "max_s": max(times_s)}


def rows(workers: Sequence[Worker], flops: float | None = None) -> list[dict[str, Any]]:
    """One row of figures per worker.  The first is what the others are compared with.

    `flops` of one call give GFLOP/s; where MATMUL ran too, its best time is the peak that they are a fraction of.
    """
    warm = {worker.name: [answer["time_s"] for answer in worker.answers[1:]] for worker in workers}
    matmul_s = warm.pop(MATMUL.name, None)
    table = []
    for worker in (worker for worker in workers if worker.name in warm):
        row = {"name": worker.name, **spread(warm[worker.name]), "cold_s": worker.cold_s,
               "built_mib": worker.answers[0]["built_mib"], "peak_mib": worker.answers[-1]["peak_mib"]}
        row["ratio"] = row["median_s"] / (table[0]["median_s"] if table else row["median_s"])
        if flops:
            row["gflops"] = flops / row["median_s"] / 1e9
        if flops and matmul_s:
            row["of_peak"] = row["gflops"] / (MATMUL_FLOPS / min(matmul_s) / 1e9)
        table.append(row)
    return table


def compare(title: str, contenders: Sequence[Contender], args: argparse.Namespace,
            flops: float | None = None) -> dict[str, Any]:
    """Race the contenders -> a table for `report.write`.  Raises Unavailable where nobody could take part."""
    workers, left_out = race(contenders, args.repeats, args.threads)
    table = rows(workers, flops)
    if not table:
        raise Unavailable(f"no contender could take part: {left_out}")
    matmul_s = [answer["time_s"] for worker in workers if worker.name == MATMUL.name for answer in worker.answers[1:]]
    peak = {"peak_gflops": MATMUL_FLOPS / min(matmul_s) / 1e9} if matmul_s else {}
    return {"title": title, "nominal_gflop": flops / 1e9 if flops else None, **peak, "rows": table,
            "left_out": left_out}


def parser(doc: str | None, name: str, repeats: int = 7) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeats", type=int, default=repeats, help=f"timings of each contender (default {repeats})")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: every core)")
    p.add_argument("--cache", type=Path, default=CACHE, help="folder for what is made once: OpenVINO's models, a "
                   "random checkpoint (default: in the temporary folder)")
    p.add_argument("--name", default=name, help=f"of the files in benchmarks/results (default {name})")
    return p
