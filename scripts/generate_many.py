"""Draw a file of prompts into a folder, with many workers on this machine or on a Ray cluster.

    python scripts/generate_many.py prompts.txt --out many --workers 4
    python scripts/generate_many.py prompts.jsonl --out many --workers 16 --gpus 1 --address auto

The file has a prompt on each line (.txt), or JSON: {"prompt": "a fox", "steps": 20, "file_name": "fox.png"}.  What
many/manifest.jsonl tells of and is there whole is not drawn again, so the same command goes on where it was stopped;
nothing is overwritten.  Workers send each picture to this program, which writes it: they need the same checkout and
model at the same paths, but no shared folder for the pictures.  What they draw does not depend on how many they are.
Exit code 0: all are there; 1: some could not be drawn, the manifest says why; 2: a mistake.
"""

import argparse
import io
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cli
import torch
from tqdm import tqdm

from ldm import Pipeline
from ldm.images import FORMATS, digest, encoding
from ldm.many import Job, Manifest, identity, read_jobs
from ldm.plugins import extract_loras
from ldm.settings import Settings, from_arguments


class Painter:
    """A worker: loads the model once, then draws one picture at a time."""

    def __init__(self, args: argparse.Namespace, folder: str):
        os.chdir(folder)                                # paths in `args` may be relative
        torch.set_num_threads(args.threads)
        self.pipe = cli.load(argparse.Namespace(**{**vars(args), "out": Path(".")}))    # it writes nothing itself

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        content, told = io.BytesIO(), {"n": row["n"], "sha256": "", "error": ""}
        try:
            [picture] = self.pipe(row["prompt"], **json.loads(row["settings"]))
            picture.save(content, **encoding(picture, "PNG"))
            told["sha256"] = digest(picture)
        except Exception as error:                      # whatever it is, it costs this picture alone
            told["error"] = f"{type(error).__name__}: {error}"
        return {**told, "content": content.getvalue()}


def arguments() -> argparse.Namespace:
    p = cli.parser(__doc__, without=("strength", *cli.OF_MASKS))
    p.set_defaults(out=Path("many"), prompts=[])        # which come from the file
    p.add_argument("file", type=Path, help=".txt or .jsonl with a prompt on each line")
    p.add_argument("--workers", type=cli.positive, default=1, help="how many draw at once (default %(default)s)")
    p.add_argument("--threads", type=cli.positive, default=1, help="CPU cores of each (default %(default)s)")
    p.add_argument("--gpus", type=float, default=0, help="GPUs of each; 0.5: two share one (default %(default)s)")
    p.add_argument("--address", default="local", help="a Ray cluster, or auto for the one that this machine is part "
                                                      "of (default: Ray is started here, and stopped at the end)")
    p.add_argument("--timeout", type=float, default=1800,
                   help="give up when no picture comes for so many seconds (default %(default)s)")
    return p.parse_args()


def checked(job: Job, pipe: Pipeline) -> Job:
    """The job, with its embeddings, or an error where the model cannot draw it.  Warns of what it would warn of."""
    if job.error:
        return job
    try:
        if extract_loras(job.prompt)[1]:
            raise ValueError("a LoRA is for all pictures of a run; give it with --lora")
        plan = pipe.plan(job.prompt, **job.settings)
        pipe.warn_of_unseen([job.prompt, job.settings["negative_prompt"]], job.settings["prompt_syntax"])
    except ValueError as error:
        return replace(job, error=str(error))
    return replace(job, embeddings=tuple(pipe.plugin_metadata(plan).get("embeddings", ())))


def connect(args: argparse.Namespace) -> Any:
    """Ray, of a cluster, or started here for this program alone: quiet, and listening to this machine only."""
    here = args.address == "local"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if here:                                            # the second means 127.0.0.1 only, on Linux too
        os.environ |= {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    import ray
    import ray.data

    started = {"num_cpus": args.workers * args.threads, "include_dashboard": False} if here else {}
    ray.init(args.address, log_to_driver=False, logging_level=logging.ERROR, **started)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3       # of workers, while they load the model
    context.execution_no_progress_timeout_s = args.timeout
    return ray


def sent(ray: Any, jobs: list[Job], todo: list[int], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the workers send, as it comes: n, which is the place in `jobs`, with content and sha256, or an error.

    A picture whose worker is lost is drawn by another.  Raises ChildProcessError where the workers fail altogether.
    """
    rows = [{"n": n, "prompt": jobs[n].prompt, "settings": json.dumps(jobs[n].settings)} for n in todo]
    pool = ray.data.ActorPoolStrategy(size=min(args.workers, len(rows)))
    data = ray.data.from_items(rows, override_num_blocks=len(rows))     # what a lost worker costs is blocks
    try:
        yield from data.map(Painter, fn_constructor_args=(args, os.getcwd()), compute=pool, num_cpus=args.threads,
                            num_gpus=args.gpus or None).iter_rows()
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise ChildProcessError(f"no picture came for {args.timeout:g} seconds; what is drawn is kept, the same "
                                "command goes on, and waits longer with another --timeout") from error
    except ray.exceptions.RayError as error:
        raise ChildProcessError(f"the workers failed ({str(error).strip().splitlines()[-1]}); what is drawn is kept, "
                                "the same command goes on") from error


def prepare(args: argparse.Namespace) -> tuple[list[Job], Manifest]:
    """What is wanted and what is there, checked on the model itself, which is then dropped."""
    jobs = read_jobs(args.file, from_arguments(args))
    good = [job for job in jobs if not job.error]
    args.prompts = [text for job in good for text in (job.prompt, job.settings["negative_prompt"])]
    pipe = cli.load(args)
    if pipe.device.type == "cuda" and not args.gpus:
        raise ValueError("the workers would have no GPU, though there is one; give --gpus 1, or --device cpu")
    return [checked(job, pipe) for job in jobs], Manifest(args.out, identity(pipe))


def receive(made: Iterable[dict[str, Any]], jobs: list[Job], manifest: Manifest) -> Iterator[None]:
    """Write what the workers send, a picture at a time; a job that failed is given its error."""
    for one in made:
        if one["error"]:
            jobs[one["n"]] = replace(jobs[one["n"]], error=one["error"])
        else:
            manifest.add(jobs[one["n"]], one["sha256"], one["content"])
        yield


def main() -> None:
    args = arguments()
    Settings(**from_arguments(args))                    # a wrong value is said before the model is loaded
    if args.out.suffix in FORMATS:
        raise ValueError(f"{args.out} is the name of a picture; give a folder")
    if not args.plan and find_spec("ray") is None:
        raise ModuleNotFoundError("many pictures are drawn by Ray; try pip install 'ldm[ray]'")
    jobs, manifest = prepare(args)
    held = [*tqdm(map(manifest.holds, jobs), "look", len(jobs), unit="picture")]
    if args.plan:
        for job, there in zip(jobs, held, strict=True):
            print(f"{job.file}: {job.error or ('there' if there else 'to draw')}: {job.prompt}")
        return
    todo = [n for n, job in enumerate(jobs) if not job.error and not held[n]]
    manifest.write()
    if todo:
        made = sent(connect(args), jobs, todo, args)
        deque(tqdm(receive(made, jobs, manifest), "draw", len(todo), unit="picture"), maxlen=0)
    manifest.write(jobs)
    print(manifest.path)
    if failed := [job for job in jobs if job.error]:
        print(f"generate_many: {len(failed)} of {len(jobs)} pictures could not be drawn, the first: {failed[0].error}",
              file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
