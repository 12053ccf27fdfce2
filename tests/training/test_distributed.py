"""Several ranks under torchrun, on the CPU (gloo): the same training as one rank with as large a batch."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm.training.checkpoint import newest

SCRIPTS = Path(__file__).parents[2] / "scripts"
UNET = ("train_unet.py", "--size", 64, "--channels", 16, "--multipliers", 1, 2, "--attn", 0, 1, "--groups", 4,
        "--heads", 2, "--text-width", 64, "--text-layers", 1, "--held-out", 1, "--warmup", 5, "--lr", 1e-3,
        "--sample-steps", 4)
VAE = ("train_vae.py", "--size", 64, "--channels", 8, "--multipliers", 1, 1, 2, 2, "--held-out", 1, "--warmup", 5,
       "--crop", 32, "--groups", 2, "--gan", 0.5, "--gan-start", 2, "--lr", 1e-3)


def train(ranks: int, *arguments: object) -> None:
    launcher = []
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    script, *flags = map(str, arguments)
    done = subprocess.run([sys.executable, *launcher, SCRIPTS / script, *flags], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def losses(folder: Path, column: str = "train") -> torch.Tensor:
    with (folder / "losses.csv").open(newline="") as file:
        return torch.tensor([float(row[column]) for row in csv.DictReader(file)])


@pytest.fixture(scope="module")
def data(shapes: Path, tiny_model: Path) -> dict[str, list]:
    return {"train_unet.py": ["--data", shapes, "--vae", tiny_model], "train_vae.py": ["--data", shapes]}


@pytest.fixture(scope="module")
def alone(data: dict[str, list], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """alone(script, steps, every) -> the run of one rank with twice the batch."""
    @lru_cache
    def run(script: tuple, steps: int, every: int) -> Path:
        out = tmp_path_factory.mktemp("alone")
        train(1, *script, *data[script[0]], "--batch", 8, "--steps", steps, "--every", every, "--out", out)
        return out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
@pytest.mark.parametrize(("script", "steps", "every"), [(UNET, 50, 10), ((*UNET, "--levels", 2), 20, 10), (VAE, 6, 1)],
                         ids=["unet", "unet-levels", "vae"])
def test_two_ranks_have_the_loss_of_one_with_twice_the_batch(data, alone, tmp_path, script, steps, every, fsdp):
    """Within 1e-4 at each step, or 1e-5 in means of ten; and they end with the same weights."""
    train(2, *script, *data[script[0]], "--batch", 4, "--steps", steps, "--every", every, "--out", tmp_path, *fsdp)
    one = alone(script, steps, every)
    expected, both = losses(one), losses(tmp_path)
    assert len(both) == steps // every + 1 and expected[1:].std() > 1e-3
    assert (both - expected).abs().max() < 1e-4 / every
    assert (losses(tmp_path, "held out") - losses(one, "held out")).abs().max() < 1e-4
    [name] = {path.name for path in tmp_path.glob("*.safetensors")} - {"latents.safetensors"}
    weights, reference = load_file(tmp_path / name), load_file(one / name)
    assert weights.keys() == reference.keys()
    for key, weight in reference.items():
        torch.testing.assert_close(weights[key], weight, rtol=0, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
def test_a_sharded_run_goes_on_alone(data, tmp_path):
    """Checkpoints hold whole tensors: two sharded ranks, then one rank, then two with DDP, are one run."""
    arguments = [*UNET, *data["train_unet.py"], "--every", 10, "--schedule", "constant", "--out"]
    train(1, *arguments, tmp_path / "one", "--batch", 4, "--steps", 30)
    for ranks, steps, flags in ((2, 10, ["--fsdp"]), (1, 20, []), (2, 30, [])):
        train(ranks, *arguments, tmp_path / "several", "--batch", 4 // ranks, "--steps", steps, *flags)
    assert torch.load(newest(tmp_path / "several"), weights_only=True)["position"] == {"samples": 120, "marks": []}
    assert (losses(tmp_path / "one") - losses(tmp_path / "several")).abs().max() < 1e-5


@pytest.mark.slow
def test_accumulation_and_recomputation_work_on_several_ranks(data, tmp_path):
    train(1, *UNET, *data["train_unet.py"], "--schedule", "constant", "--batch", 8, "--steps", 20, "--every", 10,
          "--out", tmp_path / "one")
    for name, flags in {"ddp": [], "fsdp": ["--fsdp"]}.items():
        train(2, *UNET, *data["train_unet.py"], "--schedule", "constant", "--batch", 2, "--accumulate", 2,
              "--checkpointing", "--steps", 20, "--every", 10, "--out", tmp_path / name, *flags)
        assert (losses(tmp_path / name) - losses(tmp_path / "one")).abs().max() < 1e-5


@pytest.mark.slow
def test_ranks_that_send_gradients_in_bfloat16_learn_alike(data, tmp_path):
    """Sums of other rounding, so not the same weights; a share of the gradients lost would show at once."""
    arguments = [*UNET, *data["train_unet.py"], "--bf16", "--steps", 50, "--every", 10]
    train(1, *arguments, "--batch", 8, "--out", tmp_path / "one")
    train(2, *arguments, "--batch", 4, "--out", tmp_path / "two")
    one = losses(tmp_path / "one")
    assert one[0] - one[-1] > 0.1
    assert (losses(tmp_path / "two") - one).abs().max() < 0.02
