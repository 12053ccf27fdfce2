"""Training that is interrupted, killed or out of disk goes on to the same end."""

import random
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import SCRIPTS, UNET, VAE, different_files, held_out, same_states, train

from ldm.training.checkpoint import newest
from ldm.training.ema import EMA

VAE_RUN = [*VAE, "--gan", 0.5, "--gan-start", 1, "--crop", 24, "--batch", 4]
UNET_RUN = [*UNET, "--batch", 4, "--min-snr", 5, "--schedule", "constant"]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch):
    """interrupt(n): the next training is interrupted in its n-th step."""
    def interrupt(n: int) -> None:
        update, calls = EMA.update, []

        def interrupted(self, module):
            update(self, module)
            calls.append(1)
            if len(calls) == n:
                monkeypatch.setattr(EMA, "update", update)
                raise KeyboardInterrupt

        monkeypatch.setattr(EMA, "update", interrupted)

    return interrupt


def test_training_keeps_the_last_checkpoints(run_script, shapes, tiny_model, tmp_path):
    done = run_script("train_unet.py", "--data", shapes, "--vae", tiny_model, "--out", tmp_path, *UNET, "--steps", 5,
                      "--every", 1, "--batch", 2, "--keep", 3)
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [f"state-0000000{n}.pt" for n in (3, 4, 5)]


@pytest.mark.parametrize(("script", "arguments", "model"), [
    ("train_vae.py", VAE_RUN, "vae.safetensors"),
    ("train_vae.py", [*VAE_RUN, "--accumulate", 2, "TARS"], "vae.safetensors"),
    ("train_unet.py", UNET_RUN, "model.safetensors"),
    ("train_unet.py", [*UNET_RUN, "--accumulate", 2, "TARS"], "model.safetensors"),
], ids=["vae", "vae-shards", "unet", "unet-shards"])
def test_training_resumes_bit_for_bit(run_script, interrupt, shapes, tars, tiny_model, tmp_path, script, arguments,
                                      model):
    arguments = [*arguments, "--vae", tiny_model] if script == "train_unet.py" else arguments
    data = ["--data", tars, "--held-out-data", shapes] if "TARS" in arguments else ["--data", shapes]
    arguments = [*(flag for flag in arguments if flag != "TARS"), *data, "--steps", 5, "--every", 2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_script(script, *arguments, "--out", whole).returncode == 0
    interrupt(4)                                        # after the checkpoint of step 2, before that of step 4
    assert run_script(script, *arguments, "--out", broken).returncode == 130
    assert torch.load(newest(broken), weights_only=True)["step"] == 2
    assert len(held_out(broken)) == 2 and not [*broken.glob(".*")]
    assert run_script(script, *arguments, "--out", broken).returncode == 0
    assert same_states(whole, broken) and different_files(whole, broken, model) == []


def kill(command: list[str], out: Path, after: float) -> None:
    """Start a program and send it SIGKILL so many seconds after its next checkpoint."""
    before = newest(out)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while newest(out) == before:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    time.sleep(after)
    process.kill()
    assert process.wait() == -9, "it ended before it was killed"


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments", "model"), [
    ("train_vae.py", [*VAE, "--crop", 24, "--batch", 4, "--steps", 60, "--every", 2, "--workers", 2],
     "vae.safetensors"),
    ("train_unet.py", [*UNET, "--batch", 4, "--steps", 40, "--every", 2], "model.safetensors"),
])
def test_training_killed_twice_ends_with_the_same_states(shapes, tiny_model, tmp_path, script, arguments, model):
    """SIGKILL, which no program can catch, at a random moment, in the middle of a write for one."""
    arguments = [*arguments, "--vae", tiny_model] if script == "train_unet.py" else arguments
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, str(SCRIPTS / script), *map(str, ["--data", shapes, *arguments, "--out"])]
    train(script, "--data", shapes, *arguments, "--out", whole)
    for _ in range(2):
        kill([*command, str(broken)], broken, random.uniform(0, 1.5))
    assert torch.load(newest(broken), weights_only=True)["step"] < 40
    train(script, "--data", shapes, *arguments, "--out", broken)
    assert same_states(whole, broken) and different_files(whole, broken, model) == []
    assert not [*broken.glob(".*")]                     # nor is anything left of what was half-written


def test_training_on_a_full_disk_stops_in_one_line_and_goes_on_later(run_script, shapes, tiny_model, tmp_path):
    arguments = ["--data", shapes, "--vae", tiny_model, *UNET, "--batch", 4, "--every", 1]
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert run_script("train_unet.py", *arguments, "--steps", 3, "--out", whole).returncode == 0
    assert run_script("train_unet.py", *arguments, "--steps", 3, "--out", full).returncode == 0
    for path in (full / "state-00000003.pt", full / "model.safetensors"):
        path.unlink()
    room = newest(whole).stat().st_size - 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        done = run_script("train_unet.py", *arguments, "--steps", 3, "--out", full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    *_, last = done.stderr.splitlines()
    assert done.returncode == 2 and last == (
        f"train_unet: {full / 'state-00000003.pt'} cannot be written (File too large); make room, or give another "
        "place")
    assert [path.name for path in full.glob("*.pt")] == ["state-00000002.pt"] and not [*full.glob(".*")]
    assert run_script("train_unet.py", *arguments, "--steps", 3, "--out", full).returncode == 0
    assert same_states(whole, full) and different_files(whole, full, "model.safetensors") == []


def test_training_refuses_to_resume_another_model(run_script, shapes, tmp_path):
    arguments = ["--data", shapes, "--out", tmp_path, *VAE, "--batch", 2, "--crop", 16]
    assert run_script("train_vae.py", *arguments, "--steps", 1).returncode == 0
    done = run_script("train_vae.py", *arguments, "--steps", 2, "--channels", 8)
    assert done.returncode == 2 and "does not fit the vae: it is of a run with other settings" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("flags", "what"), [(["--prediction", "eps"], "prediction"), (["--vae", "other"], "VAE")])
def test_a_run_of_another_kind_is_refused(run_script, shapes, tiny_model, other_vae, tmp_path, flags, what):
    common = ["--data", shapes, *UNET, "--batch", 2, "--out", tmp_path, "--vae", tiny_model]
    assert run_script("train_unet.py", *common, "--steps", 1).returncode == 0
    flags = [other_vae if flag == "other" else flag for flag in flags]
    done = run_script("train_unet.py", *common, "--steps", 2, *flags)
    assert done.returncode == 2 and f"is of a run that differs in {what}; give the same as there" in done.stderr


def test_a_run_of_other_words_is_refused(run_script, shapes, tiny_model, tmp_path):
    """Even where they are as many: the rows that were learned would be theirs."""
    folder = tmp_path / "shapes"
    shutil.copytree(shapes, folder)
    common = ["--data", folder, *UNET, "--batch", 2, "--out", tmp_path / "out", "--vae", tiny_model]
    assert run_script("train_unet.py", *common, "--steps", 1).returncode == 0
    captions = folder / "metadata.jsonl"
    captions.write_text(re.sub(r"disc(?!\.png)", "dog", captions.read_text()))
    done = run_script("train_unet.py", *common, "--steps", 2)
    assert done.returncode == 2 and "is of a run that differs in vocabulary" in done.stderr
