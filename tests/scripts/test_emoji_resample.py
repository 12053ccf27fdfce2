"""scripts/emoji_resample.py: what is known worst comes most often, and what is held out never."""

import random
from collections import Counter

import emoji_resample
import pytest
import torch
from emoji_captions import english
from emoji_resample import Known, choose, copies, exemplars, knowledge, losses
from emoji_scenes import Scene, Thing, held_out_style, training_scenes
from emoji_sprites import STYLES, Sprites
from torch import Tensor, nn

from ldm import Pipeline
from ldm.training.data import ImageFolder, split


@pytest.fixture
def scenes(sprites: Sprites) -> list[Scene]:
    return list(training_scenes(sprites))


@pytest.fixture
def places(scenes) -> dict[Known, float]:
    """All are in the middle of what is known."""
    return dict.fromkeys(exemplars(scenes), 0.5)


def test_resampled_pictures_are_some_of_the_folder_without_the_held_out(run_script, emoji_pictures, source, tiny_model,
                                                                        tmp_path):
    out = tmp_path / "again" / "resampled"
    done = run_script("emoji_resample.py", "--ckpt", tiny_model, "--data", emoji_pictures, "--source", source, "--out",
                      out)
    assert done.returncode == 0, done.stderr
    whole, some, held_out = (ImageFolder(folder, 64) for folder in (emoji_pictures, out, out / "held-out"))
    assert [file.resolve() for file in held_out.files] == [whole.files[n] for n in split(len(whole), 128)[1]]
    assert not {file.resolve() for file in some.files} & {file.resolve() for file in held_out.files}
    assert max(Counter(some.files).values()) > 1
    first, second, *others = whole.texts[int(some.files[0].stem)]
    assert some.texts[0] == [first] * 3 + [second] * 2 + others


def test_resampling_refuses_pictures_of_other_scenes_and_their_own_folder(run_script, emoji_pictures, source,
                                                                          tiny_model, tmp_path):
    few = tmp_path / "few"
    run_script("emoji.py", "--source", source, "--out", few, "--size", 64, "--few")
    for data, out, error in ((few, tmp_path / "out", "are not those of the"), (emoji_pictures,) * 2 + ("is --data",)):
        before = (data / "metadata.jsonl").read_bytes()
        done = run_script("emoji_resample.py", "--ckpt", tiny_model, "--data", data, "--source", source, "--out", out)
        assert done.returncode == 2 and error in done.stderr
        assert (data / "metadata.jsonl").read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_what_is_known_worst_comes_most(sprites):
    fox, person = sprites.objects[0], sprites.people[0]
    plain, blue = Scene((Thing(fox),)), Scene((Thing(fox),), background="blue")

    def at(scene: Scene, place: float) -> float:
        return copies(scene, {Known("fox", style): place for style in STYLES})

    assert at(plain, 0.0) < at(plain, 0.5) < at(plain, 1.0) == pytest.approx(2.5 * 0.3)
    assert at(blue, 1.0) == pytest.approx(0.8 * at(plain, 1.0))
    assert at(Scene((Thing(fox),), "cartoon"), 1.0) == pytest.approx(2 * at(plain, 1.0))
    for scene in (Scene((Thing(person),)), Scene((Thing(fox, "red"),)), Scene((Thing(fox),), degraded=True)):
        assert at(scene, 0.0) == at(scene, 1.0)


def test_pictures_are_chosen_as_often_as_they_are_to_come(scenes, places):
    worst, best, numbers = Known("fox", "flat"), Known("tiger", "3d"), list(range(len(scenes)))
    known = {**places, worst: 0.9, best: 0.1}
    chosen = [Counter(choose(scenes, numbers, known, random.Random(seed))) for seed in range(40)]
    assert chosen[0] != chosen[1]
    for one, place in ((worst, 1.0), (best, 0.0)):
        number = exemplars(scenes)[one]
        wanted = copies(scenes[number], {**places, one: place})
        assert sum(count[number] for count in chosen) / len(chosen) == pytest.approx(wanted, abs=0.2)


def test_an_exemplar_is_an_object_as_it_is_on_white(sprites, scenes):
    found = exemplars(scenes)
    assert set(found) == {(e.label, style) for e in sprites.objects for style in STYLES if held_out_style(e) != style}
    for (label, style), number in found.items():
        thing = scenes[number].things[0]
        assert scenes[number] == Scene((Thing(thing.emoji),), style) and thing.emoji.label == label


class Telepath(nn.Module):
    """A network that answers the target where the context is 1, and nothing where it is 0."""

    def __init__(self, pipe: Pipeline, z: Tensor):
        super().__init__()
        self.pipe, self.z, self.conv_in = pipe, z, pipe.unet.conv_in
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.seen.append(x)
        schedule = self.pipe.schedule
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x - a.sqrt() * self.z) / (1 - a).sqrt()
        return schedule.target(self.z, noise, t, self.pipe.prediction) * context[:, :1, :1, None]


def test_losses_are_of_each_context_with_the_same_noise(pipe, monkeypatch):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Telepath(pipe, z)
    monkeypatch.setattr(pipe, "unet", network)
    right, wrong = losses(pipe, z, [torch.ones(2, 77, 64), torch.zeros(2, 77, 64)])
    assert right.max() < 1e-5 and wrong == pytest.approx([1.0, 1.0], abs=0.2)
    assert len(network.seen) == 8
    for first, second in zip(network.seen[::2], network.seen[1::2], strict=True):
        assert torch.equal(first, second)


def test_knowledge_is_the_loss_over_that_with_the_caption_of_another(pipe, emoji_pictures, scenes, monkeypatch):
    data, shown = ImageFolder(emoji_pictures, 64), exemplars(scenes)
    captions: list[list[str]] = []
    monkeypatch.setattr(emoji_resample, "BATCH", 5)
    monkeypatch.setattr(pipe, "encode_prompt", lambda texts: captions.append(texts) or torch.zeros(len(texts)))
    monkeypatch.setattr(emoji_resample, "losses", lambda _, z, contexts: torch.tensor(
        [[len(text) for text in captions[-2]], [1000] * len(z)], dtype=torch.float64))
    found = knowledge(pipe, data, shown)
    assert found == {known: len(english(scenes[number])) / 1000 for known, number in shown.items()}
    own, others = (sum(captions[first::2], []) for first in (0, 1))
    assert sorted(own) == sorted(others) and all(a != b for a, b in zip(own, others, strict=True))
