"""Time the web server: from its start to the page, what it adds to a picture, and fifty clients at once.

    python benchmarks/bench_web.py

The overhead is measured against the same pipeline in a process of its own, in turn; previews are off.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import harness
import httpx
import report
import web_load

WEBUI = Path(__file__).parents[1] / "scripts" / "webui.py"
PROMPT = "3d render of a fox"
QUIET = {"override_settings": {"live_previews_enable": False}}


@contextlib.contextmanager
def server(threads: int) -> Iterator[tuple[str, float]]:
    """The address of a server in a process of its own, and seconds from its start until the page is there."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(WEBUI), "--no-browser", "--out", folder, "--port", "0",
                   "--device", "cpu", "--dtype", "bfloat16"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        try:
            assert process.stdout
            address = process.stdout.readline().split()[2].rstrip(";")
            httpx.get(address, timeout=300).raise_for_status()
            yield address, time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()


def starts(args: argparse.Namespace) -> dict[str, Any]:
    """Start again and again; the first may read the packages from the disk, the others find them in memory."""
    times = []
    for _ in range(args.repeats):
        with server(args.threads) as (_, ready_s):
            times.append(ready_s)
    rows = [{"name": "first start", **harness.spread(times[:1])}]
    if times[1:]:
        rows.append({"name": "starts after it", **harness.spread(times[1:])})
    return {"title": "From the start to the page", "rows": rows}


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """One picture by the pipeline alone, one through HTTP, in turn."""
    body = {"prompt": PROMPT, "seed": 0, "steps": args.steps, "width": args.size, "height": args.size,
            "sampler_name": "DDIM", **QUIET}
    alone = harness.Contender("pipeline", "pictures:ldm", {"ckpt": None, "steps": args.steps, "size": args.size})
    times: dict[str, list[float]] = {"pipeline": [], "through HTTP": []}
    with server(args.threads) as (address, _), harness.working(alone, args.threads) as worker, \
            httpx.Client(base_url=address, timeout=None) as client:
        client.post("/sdapi/v1/txt2img", json=body).raise_for_status()              # loads the model
        for _ in range(args.repeats):
            times["pipeline"].append(worker.sample()["time_s"])
            start = time.perf_counter()
            client.post("/sdapi/v1/txt2img", json=body).raise_for_status()
            times["through HTTP"].append(time.perf_counter() - start)
    pairs = [b / a for a, b in zip(times["pipeline"], times["through HTTP"], strict=True)]
    rows = [{"name": name, **harness.spread(found), "ratio": median(found) / median(times["pipeline"])}
            for name, found in times.items()]
    return {"title": f"One picture of {args.size}x{args.size}, {args.steps} steps, bundled model", "rows": rows,
            "notes": [f"Median of the ratios within each turn: {median(pairs):.3f}. Both make a PNG file; what goes "
                      "through HTTP is also written to the disk and sent."]}


def loaded(args: argparse.Namespace) -> dict[str, Any]:
    """Many clients, each with one request at a time."""
    with server(args.threads) as (address, _):
        answers, memory = web_load.load(address, args.clients, args.jobs, {"steps": 4, "width": 128, "height": 128})
    return {"title": f"{args.clients} clients, {args.jobs} pictures of 4 steps, bundled model",
            "rows": [{"name": "web server", **web_load.row(answers, memory)}]}


def main() -> None:
    p = harness.parser(__doc__, "web", repeats=5)
    p.add_argument("--size", type=int, default=512, help="side of the picture in pixels (default 512)")
    p.add_argument("--steps", type=int, default=20, help="its sampling steps (default 20)")
    p.add_argument("--clients", type=int, default=50, help="clients at once (default 50)")
    p.add_argument("--jobs", type=int, default=500, help="pictures that they ask for in all (default 500)")
    args = p.parse_args()
    report.write(args.name, [starts(args), overhead(args), loaded(args)])


if __name__ == "__main__":
    main()
