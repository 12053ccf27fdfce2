"""scripts/generate_many.py: what it refuses; with Ray, that the workers' number and death change nothing."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ldm import Pipeline
from ldm.images import digest, psnr, read_metadata

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_many.py"
LINES = [{"prompt": "a fox"}, {"prompt": "一只猫", "sampler": "euler_a", "seed": 5}, {"prompt": "a dog", "width": 500},
         {"prompt": "two owls", "count": 2, "height": 72}, {"prompt": "a cow", "file_name": "cow.png"},
         *({"prompt": f"fox number {i}"} for i in range(6, 12))]
FILES = ["00000.png", "00001.png", "00003.png", "00004.png", "cow.png", *(f"{i:05d}.png" for i in range(6, 12))]


def command(prompts: Path, out: Path, model: Path, *more: object) -> list[str]:
    return [sys.executable, *map(str, (SCRIPT, prompts, "--out", out, "--ckpt", model, "--steps", 30, "--dtype",
                                       "float32", "--threads", 1, *more))]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def workers(program: subprocess.Popen) -> list[psutil.Process]:
    """The processes that draw for a program."""
    return [p for p in psutil.Process(program.pid).children(recursive=True) if p.cmdline()[0].startswith("ray::MapW")]


def wait_for_pictures(out: Path, count: int, program: subprocess.Popen) -> list[Path]:
    """Until so many are there, which is before the program ends."""
    while len(found := sorted(out.glob("[!.]*.png"))) < count:
        assert program.poll() is None
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def by_one(prompts: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker draws."""
    out = tmp_path_factory.mktemp("one") / "many"
    done = run(prompts, out, tiny_model)
    assert done.returncode == 1, done.stderr
    return out


@pytest.mark.slow
def test_one_bad_line_costs_its_picture_alone(by_one, tiny_model):
    lines = [json.loads(line) for line in (by_one / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == [*FILES[:2], "00002.png", *FILES[2:]]
    assert sorted(contents(by_one)) == sorted([*FILES, "manifest.jsonl"])
    assert lines.pop(2)["error"] == "line 3: width 500 is not a multiple of 8; try 504"
    for line in lines:
        with Image.open(by_one / line["file"]) as picture:
            told = read_metadata(by_one / line["file"])
            assert digest(picture) == line["sha256"] == told["sha256"] and told["prompt"] == line["prompt"]
            assert (told["seed"], told["steps"]) == (line["settings"]["seed"], 30)
    assert [line["settings"]["seed"] for line in lines[:5]] == [0, 5, 3, 4, 5]
    [expected] = Pipeline.load(tiny_model, "cpu", "float32")("two owls", seed=4, height=72, steps=30)
    with Image.open(by_one / "00004.png") as picture:
        assert picture.size == (64, 72) and psnr(picture, expected) > 50        # other threads, other last bits


@pytest.mark.slow
def test_two_workers_write_the_files_of_one_and_nothing_twice(by_one, prompts, tiny_model, tmp_path):
    done = run(prompts, tmp_path / "many", tiny_model, "--workers", 2)
    assert (done.returncode, done.stdout) == (1, f"{tmp_path / 'many' / 'manifest.jsonl'}\n"), done.stderr
    assert done.stderr.splitlines()[-1] == ("generate_many: 1 of 12 pictures could not be drawn, the first: line 3: "
                                            "width 500 is not a multiple of 8; try 504")
    assert contents(tmp_path / "many") == contents(by_one)
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "many").glob("*.png"))]
    again = run(prompts, tmp_path / "many", tiny_model, "--workers", 2)
    assert again.returncode == 1 and "draw:" not in again.stderr
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "many").glob("*.png"))]
    assert contents(tmp_path / "many") == contents(by_one)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(by_one, prompts, tiny_model, tmp_path):
    with subprocess.Popen(command(prompts, tmp_path / "many", tiny_model, "--workers", 2), stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, text=True) as program:
        wait_for_pictures(tmp_path / "many", 2, program)
        first, second = workers(program)
        first.kill()
        assert len(list((tmp_path / "many").glob("[!.]*.png"))) < len(FILES) - 2          # there was more to do
        _, told = program.communicate(timeout=600)
    assert program.returncode == 1, told
    assert contents(tmp_path / "many") == contents(by_one)


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(by_one, prompts, tiny_model, tmp_path):
    arguments = prompts, tmp_path / "many", tiny_model
    with subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as program:
        wait_for_pictures(tmp_path / "many", 3, program)
        left = workers(program)
        program.kill()
    assert left and not psutil.wait_procs(left, timeout=30)[1]                  # they end by themselves
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("[!.]*.png")}
    assert 3 <= len(before) < len(FILES)
    done = run(*arguments)
    assert done.returncode == 1, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "many") == contents(by_one)


@pytest.mark.slow
def test_workers_that_do_not_answer_are_given_up_and_what_they_drew_is_kept(prompts, tiny_model, tmp_path):
    with subprocess.Popen(command(prompts, tmp_path / "many", tiny_model, "--timeout", 60), stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, text=True) as program:
        wait_for_pictures(tmp_path / "many", 2, program)
        [worker] = workers(program)
        os.kill(worker.pid, signal.SIGSTOP)
        _, told = program.communicate(timeout=600)
    assert program.returncode == 2
    assert told.splitlines()[-1].startswith("generate_many: no picture came for 60 seconds; what is drawn is kept")
    assert len(list((tmp_path / "many").glob("[!.]*.png"))) >= 2


def test_plan_says_what_is_there_and_what_is_wrong(run_script, tiny_model, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a fox"}\n{"prompt": "a <lora:cat:1>"}\n{"prompt": "a dog", '
                                            '"clip_skip": 9}\nan owl\n')
    done = run_script("generate_many.py", tmp_path / "prompts.jsonl", "--out", tmp_path / "many", "--plan", "--ckpt",
                      tiny_model, "--dtype", "float32")
    assert done.returncode == 0 and not (tmp_path / "many").exists()
    assert done.stdout.splitlines() == [
        "00000.png: to draw: a fox",
        "00001.png: a LoRA is for all pictures of a run; give it with --lora: a <lora:cat:1>",
        "00002.png: clip_skip 9 is outside 1..1; try 1: a dog",
        '00003.png: line 4: it is not JSON; write {"prompt": "a fox"}: an owl']


@pytest.mark.parametrize(("arguments", "message"), [
    (["--out", "fox.png"], "fox.png is the name of a picture; give a folder"),
    (["--ckpt", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--device", "toaster"], "device 'toaster' cannot be used here; try auto or cpu"),
    (["--steps", "0"], "generate_many: steps 0 is outside 1..999; try 1"),
])
def test_mistakes_are_said_in_one_line(run_script, tiny_model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox\n")
    done = run_script("generate_many.py", "prompts.txt", "--ckpt", tiny_model, *arguments)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_foreign_pictures_are_not_overwritten(run_script, tiny_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "00000.png")
    done = run_script("generate_many.py", tmp_path / "prompts.txt", "--out", tmp_path, "--ckpt", tiny_model)
    assert done.returncode == 2 and "00000.png is there, but not in manifest.jsonl" in done.stderr.splitlines()[-1]


def test_without_ray_the_extra_is_named(run_script, tiny_model, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find_spec(name, *a))
    done = run_script("generate_many.py", tmp_path / "prompts.txt", "--ckpt", tiny_model)
    assert (done.returncode, done.stderr) == (2, "generate_many: many pictures are drawn by Ray; try pip install "
                                                 "'ldm[ray]'\n")
