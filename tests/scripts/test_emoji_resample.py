"""scripts/emoji_resample.py: what is known least comes most often, and what is held out never."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from emoji_resample import Known, copies, exemplars, knowledge, losses
from emoji_scenes import Scene, Thing, training_scenes
from torch import nn

from ldm import Pipeline
from ldm.training.data import ImageFolder, split


@pytest.fixture
def pictures(run_script, source: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    assert run_script("emoji.py", "--source", source, "--out", folder, "--size", 64).returncode == 0
    return folder


def test_resampled_pictures_are_those_of_the_folder_without_the_held_out(run_script, pictures, source, tiny_model,
                                                                        tmp_path):
    out = tmp_path / "again" / "resampled"
    done = run_script("emoji_resample.py", "--ckpt", tiny_model, "--data", pictures, "--source", source, "--out", out,
                      "--held-out", 16)
    assert done.returncode == 0, done.stderr
    whole, some, held_out = (ImageFolder(folder, 64) for folder in (pictures, out, out / "held-out"))
    assert [file.resolve() for file in held_out.files] == [whole.files[n] for n in split(len(whole), 16)[1]]
    assert not {file.resolve() for file in some.files} & {file.resolve() for file in held_out.files}
    assert 0.3 < len(some) / len(whole) < 0.7
    assert max(Counter(some.files).values()) > 1
    number = int(some.files[0].stem)
    first, second, *others = whole.texts[number]
    assert some.texts[0] == [first] * 3 + [second] * 2 + others


def test_resampling_refuses_a_part_of_the_pictures(run_script, source, tiny_model, tmp_path):
    few = tmp_path / "few"
    run_script("emoji.py", "--source", source, "--out", few, "--size", 64, "--few")
    done = run_script("emoji_resample.py", "--ckpt", tiny_model, "--data", few, "--source", source, "--out",
                      tmp_path / "out")
    assert done.returncode == 2 and "make them without --few" in done.stderr and not (tmp_path / "out").exists()


def test_what_is_known_worst_comes_most(sprites):
    fox, person = sprites.objects[0], sprites.people[0]
    plain, blue = Scene((Thing(fox),)), Scene((Thing(fox),), background="blue")
    assert copies(plain, 0.0) < copies(plain, 0.5) < copies(plain, 1.0) == pytest.approx(2.5 / 3)
    assert copies(blue, 1.0) == pytest.approx(0.8 * copies(plain, 1.0))
    assert copies(Scene((Thing(fox),), "cartoon"), 1.0) == pytest.approx(2 * copies(plain, 1.0))
    for scene in (Scene((Thing(person),)), Scene((Thing(fox, "red"),)), Scene((Thing(fox),), degraded=True)):
        assert copies(scene, 0.0) == copies(scene, 1.0)


def test_an_exemplar_is_an_object_as_it_is_on_white(sprites):
    scenes = list(training_scenes(sprites))
    for (label, style), number in exemplars(scenes).items():
        scene = scenes[number]
        assert scene == Scene(scene.things, style) and scene.things == (Thing(scene.things[0].emoji),)
        assert scene.things[0].emoji.label == label and not scene.things[0].emoji.tones


class Telepath(nn.Module):
    """A network that answers the target where the context is 1, and nothing where it is 0."""

    def __init__(self, pipe: Pipeline, z: torch.Tensor):
        super().__init__()
        self.pipe, self.z, self.conv_in = pipe, z, pipe.unet.conv_in

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        schedule = self.pipe.schedule
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x - a.sqrt() * self.z) / (1 - a).sqrt()
        return schedule.target(self.z, noise, t, self.pipe.prediction) * context[:, :1, :1, None]


def test_losses_are_of_each_context_with_the_same_noise(pipe):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.unet = Telepath(pipe, z)                           # type: ignore[assignment]
    right, wrong = losses(pipe, z, [torch.ones(2, 77, 64), torch.zeros(2, 77, 64)])
    assert right.max() < 1e-5 and wrong == pytest.approx([1.0, 1.0], abs=0.2)


def test_knowledge_is_the_loss_over_that_with_the_caption_of_another(pipe, pictures, sprites, monkeypatch):
    scenes = list(training_scenes(sprites))
    shown = exemplars(scenes)
    best = Known("kite", "flat")

    def told(_, z, contexts):
        ratio = torch.tensor([0.1 if known == best else 0.5 for known in order])
        return torch.stack([ratio, torch.ones(len(z))])

    order = random.Random(0).sample(list(shown), len(shown))
    monkeypatch.setattr("emoji_resample.losses", told)
    found = knowledge(pipe, ImageFolder(pictures, 64), shown)
    assert min(found, key=found.__getitem__) == best and json.dumps(sorted(found)) == json.dumps(sorted(shown))
