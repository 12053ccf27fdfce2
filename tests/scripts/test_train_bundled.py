"""scripts/train_bundled.py: which stages it runs, and what it makes of the result."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from shutil import copy

import pytest
import torch
from emoji import write_captions
from safetensors.torch import load_file
from toy_emoji import write_packages

from ldm import Pipeline


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of stages, which are not run; but captions are there after the first."""
    started: list[list[str]] = []

    def start(command: list[str], check: bool) -> None:
        started.append(command)
        if stages([command]) == ["emoji.py"] and "--few" not in command:
            folder = Path(after("--out", command))
            folder.mkdir()
            write_captions(folder, [("0.png", ["a red fox", "a kite"])])

    monkeypatch.setattr(subprocess, "run", start)
    return started


@pytest.fixture
def work(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder where the packages are, and the last training has left a model."""
    write_packages(tmp_path / "npm")
    (tmp_path / "unet-2").mkdir()
    copy(tiny_model, tmp_path / "unet-2" / "model.safetensors")
    return tmp_path


def stages(commands: list[list[str]]) -> list[str]:
    return [Path(part).name for command in commands for part in command if part.endswith(".py")]


def after(flag: str, command: list[str]) -> str:
    return command[command.index(flag) + 1]


def test_train_bundled_begins_with_few_objects(run_script, commands, work):
    assert run_script("train_bundled.py", "--work", work).returncode == 0
    first_objects, again = ["emoji.py", "train_unet.py"], ["emoji_resample.py", "train_unet.py"]
    assert stages(commands) == ["emoji.py", "train_vae.py", *first_objects, "train_unet.py", *again, *again]
    pictures, vae, few, *rest = commands
    trainings = [command for command in rest if "train_unet.py" in stages([command])]
    assert "--few" in few and "--init" not in vae + trainings[0]
    assert after("--data", trainings[0]) == after("--out", few) != after("--data", trainings[1])
    assert {after("--vae", command) for command in trainings} == {str(Path(after("--out", vae)) / "vae.safetensors")}
    for former, latter in zip(trainings, trainings[1:], strict=False):
        assert after("--init", latter) == str(Path(after("--out", former)) / "model.safetensors")
    for former, resample, latter in zip(trainings[1:], rest[2::2], trainings[2:], strict=False):
        assert after("--ckpt", resample) == str(Path(after("--out", former)) / "model.safetensors")
        assert after("--data", resample) == after("--out", pictures)
        assert after("--data", latter) == after("--out", resample)
        assert after("--held-out-data", latter) == after("--out", resample) + "/held-out"
    weights = load_file(work / "bundled.safetensors")
    assert {weight.dtype for name, weight in weights.items() if not name.endswith(".rows")} == {torch.float16}


def test_train_bundled_reads_chinese_in_the_words_of_its_captions(run_script, commands, work):
    assert run_script("train_bundled.py", "--work", work).returncode == 0
    pipe = Pipeline.load(work / "bundled.safetensors")
    assert torch.equal(pipe.encode_prompt(["红色的物甲的物丙"]), pipe.encode_prompt(["red fox kite"]))
    with pytest.warns(UserWarning, match="was trained without 天空"):
        pipe.encode_prompt(["天空的物甲"])


def test_train_bundled_makes_nothing_twice_and_goes_on_from_a_model(run_script, commands, work, tiny_model):
    there = [(folder, "metadata.jsonl") for folder in ("pictures", "pictures-1", "pictures-2")]
    for folder, file in (*there, ("vae", "vae.safetensors")):
        (work / folder).mkdir()
        (work / folder / file).touch()
    done = run_script("train_bundled.py", "--work", work, "--init", tiny_model, "--ranks", 2)
    assert done.returncode == 0 and stages(commands) == ["train_unet.py"] * 3
    assert after("--init", commands[0]) == str(tiny_model) and after("--batch", commands[0]) == "32"
    assert commands[0][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_train_bundled_refuses_ranks_that_do_not_divide_a_step(run_script, commands, tmp_path):
    done = run_script("train_bundled.py", "--work", tmp_path, "--ranks", 3)
    assert done.returncode == 2 and "ranks 3 do not divide a step's 16 samples; try 2" in done.stderr
    assert commands == []


class Parsed(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("init", [[], ["--init", "model.safetensors"]])
def test_train_bundled_gives_flags_that_the_scripts_know(run_script, commands, work, monkeypatch, init):
    run_script("train_bundled.py", "--work", work, *init)
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *rest):
        parse_args(parser, *rest)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    for _, script, *args in commands:
        monkeypatch.setattr(sys, "argv", [script, *args])
        with pytest.raises(Parsed):
            runpy.run_path(script, run_name="__main__")
