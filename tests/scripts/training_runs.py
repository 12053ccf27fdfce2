"""What the tests of training share: flags of small networks, runs in a process of their own, what two runs left."""

import csv
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ldm.training.checkpoint import newest

SCRIPTS = Path(__file__).parents[2] / "scripts"
VAE = ["--size", 64, "--channels", 16, "--multipliers", 1, 1, 2, 2, "--held-out", 7, "--warmup", 20]
UNET = ["--size", 64, "--channels", 32, "--multipliers", 1, 2, "--attn", 0, 1, "--groups", 8, "--heads", 2,
        "--text-width", 64, "--text-layers", 1, "--held-out", 2, "--warmup", 20]


def held_out(folder: Path, column: str = "held out") -> list[float]:
    with (folder / "losses.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def train(script: str, *arguments: object) -> None:
    done = subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def different_files(whole: Path, other: Path, model: str) -> list[str]:
    """Which results of two runs differ: the tensors of the model, other files byte for byte."""
    a, b = load_file(whole / model), load_file(other / model)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])] + [
        name for name in ("losses.csv", "samples.png") if (whole / name).read_bytes() != (other / name).read_bytes()]


def same_states(whole: Path, other: Path) -> bool:
    """Whether the last checkpoints are equal, bit for bit: networks, averages, moments, position."""
    a, b = (torch.load(newest(folder), weights_only=True) for folder in (whole, other))

    def leaves(tree: object) -> list:
        values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else None
        return [tree] if values is None else [leaf for value in values for leaf in leaves(value)]

    pairs = list(zip(leaves(a), leaves(b), strict=True))
    assert sum(isinstance(x, torch.Tensor) for x, _ in pairs) > 100
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)
