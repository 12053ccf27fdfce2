"""scripts/evaluate.py as a program: its scores are those of the library."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import write_clip
from PIL import Image
from torch import nn

from ldm import metrics
from ldm.images import save_image, with_metadata


class Patches(nn.Module):
    """Means of 2 x 2 parts of each colour: [B 3 H W] -> [B 12]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "patches.pt2"
    torch.export.save(torch.export.export(Patches(), (torch.zeros(8, 3, 16, 16),)), path)
    return path


def pictures(folder: Path, count: int, seed: int, contrast: float = 1.0) -> Path:
    """Random pictures with prompts in their metadata."""
    folder.mkdir()
    dice = np.random.default_rng(seed)
    for i in range(count):
        pixels = 127.5 + contrast * (dice.uniform(0, 255, (4, 4, 3)) - 127.5)
        picture = Image.fromarray(pixels.astype(np.uint8)).resize((24, 24), Image.Resampling.NEAREST)
        save_image(with_metadata(picture, {"prompt": f"picture {i}"}), folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pictures")
    return pictures(root / "made", 30, 1, contrast=0.8), pictures(root / "real", 40, 2)


def test_scores_are_those_of_the_library(run_script, folders, network, tiny_clip, tmp_path):
    made, real = folders
    done = run_script("evaluate.py", made, "--real", real, "--features", network, "--size", 16, "--batch", 8, "--clip",
                      tiny_clip[0], "--clip-file", tiny_clip[1], "--device", "cpu", "--out", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    a, b = (torch.cat(list(metrics.features_of(Patches(), metrics.pictures_in(folder), 16))) for folder in folders)
    precision, recall = metrics.precision_recall(a, b)
    kid, deviation = metrics.kernel_distance(a, b, size=30)
    scorer = metrics.ClipScorer(*tiny_clip)
    clip = scorer([Image.open(path) for path in metrics.pictures_in(made)], [f"picture {i}" for i in range(30)])
    expected = {"fid": metrics.frechet_distance(metrics.moments(a), metrics.moments(b)), "kid": kid,
                "kid_deviation": deviation, "precision": precision, "recall": recall, "clip_score": clip.mean().item(),
                "clip_score_deviation": clip.std(correction=0).item()}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (scores["made"], scores["real"], scores["width"], scores["kid_subset"]) == (30, 40, 12, 30)
    assert scores["flags"]["size"] == "16" and scores["flags"]["features"] == str(network)
    printed = dict(line.split() for line in done.stdout.splitlines())
    assert float(printed["fid"]) == pytest.approx(scores["fid"], rel=1e-5)
    assert printed.keys() == scores.keys() - {"flags"}


@pytest.mark.filterwarnings("default")
def test_few_pictures_are_said_to_make_fid_incomparable(run_script, network, tmp_path):
    made = pictures(tmp_path / "made", 10, 3)
    done = run_script("evaluate.py", made, "--real", made, "--features", network, "--size", 16, "--batch", 8)
    assert done.returncode == 0 and "evaluate: FID of 10 pictures and 12 features depends on how many" in done.stderr
    scores = json.loads((made / "scores.json").read_text())
    assert (scores["precision"], scores["recall"]) == (1, 1) and abs(scores["fid"]) < 1e-6


def test_prompts_come_from_texts_beside_first(run_script, tiny_clip, tmp_path):
    made = pictures(tmp_path / "made", 2, 4)
    (made / "00000.txt").write_text("a fox\n", encoding="utf-8")
    done = run_script("evaluate.py", made, "--clip", tiny_clip[0], "--clip-file", tiny_clip[1], "--device", "cpu")
    assert done.returncode == 0, done.stderr
    files = metrics.pictures_in(made)
    expected = metrics.ClipScorer(*tiny_clip)([Image.open(path) for path in files], ["a fox", "picture 1"]).mean()
    assert json.loads((made / "scores.json").read_text())["clip_score"] == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "there is nothing to score with; give --real and --features, or --clip and --clip-file"),
    (["--real", "made"], "--real and --features go together; give both"),
    (["--clip", "ViT-B-32"], "--clip and --clip-file go together; give both"),
    (["--real", "nowhere", "--features", "net.pt2"], "nowhere is no folder of pictures"),
    (["--real", "made", "--features", "net.pt2"], "net.pt2 is no file; give a network"),
    (["--real", "made", "--features", "net.pt2", "--size", 0], "size 0 is not 1 or more; try 299"),
    (["--clip", "ViT-B-32", "--clip-file", "openai"], "plain.png tells no prompt; write it into made/plain.txt"),
])
def test_mistakes_are_said_in_one_line(run_script, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    Image.new("RGB", (8, 8)).save("made/plain.png")
    done = run_script("evaluate.py", "made", *arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not Path("made/scores.json").exists()
