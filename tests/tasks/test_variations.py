"""Variations by turned noise, paths between prompts, and the files of animations."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ldm import Pipeline
from ldm.images import read_metadata
from ldm.tasks import Varied, check_animation, draw_path, save_animation, slerp

FAST = {"steps": 4}


def last_latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **settings)
    return last.x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slerp_is_exact_at_both_ends(dtype):
    a, b = torch.randn(2, 3, 100).to(dtype)
    assert torch.equal(slerp(a, b, 0), a) and torch.equal(slerp(a, b, 1), b)


def test_slerp_turns_by_the_fraction_of_the_angle():
    """In the plane, where a turn is a sum of angles."""
    start, end = torch.tensor([0.3, 1.0, -2.0, 3.0]), torch.tensor([1.9, 0.9, 1.0, 2.99999])
    a, b = (torch.stack([angle.cos(), angle.sin()], dim=-1).double() for angle in (start.double(), end.double()))
    for fraction in (0.1, 0.5, 0.8):
        angle = start.double() + fraction * (end.double() - start.double())
        expected = torch.stack([angle.cos(), angle.sin()], dim=-1)
        assert_close(slerp(a, b, fraction), expected, rtol=0, atol=1e-9)


def test_slerp_of_noise_is_noise():
    """Its standard deviation stays 1; that of a straight line falls to 0.71."""
    a, b = torch.randn(2, 4, 64 * 64, generator=torch.Generator().manual_seed(0))
    for fraction in (0.1, 0.5, 0.9):
        assert_close(slerp(a, b, fraction).std(1), torch.ones(4), rtol=0, atol=0.03)
    assert torch.lerp(a, b, 0.5).std() < 0.75


@pytest.mark.parametrize("apart", [0, 1e-12, 1e-8, 1e-4, 1e-2])
def test_slerp_of_near_parallels_is_their_lerp(apart):
    """Where AUTOMATIC1111 swaps the ends."""
    a = torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = a + apart * torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_close(slerp(a, b, 0.25), torch.lerp(a, b, 0.25), rtol=0, atol=max(1e-7, apart**2))


def test_slerp_refuses_opposites():
    with pytest.raises(ValueError, match="opposite directions; give others"):
        slerp(torch.ones(2, 3), -torch.ones(2, 3), 0.5)


@pytest.mark.parametrize("noise", ["cpu", "nv"])
def test_varied_turns_to_the_other_seed_of_the_same_source(pipe, noise):
    other = last_latents(pipe, "a cat", seed=9, noise=noise, **FAST)
    assert torch.equal(last_latents(Varied(pipe, 9, 1.0), "a cat", seed=5, noise=noise, **FAST), other)


@pytest.mark.parametrize("settings", [{}, {"eta": 1.0}, {"sampler": "euler_a"}])
def test_varied_at_its_ends_draws_the_pictures_of_the_seeds(pipe, settings):
    """Noise that is added on the way is that of the first seed; without any, strength 1 is the other seed's picture."""
    settings = {"seed": 5, **FAST, **settings}
    assert torch.equal(last_latents(Varied(pipe, 9, 0.0), "a cat", **settings), last_latents(pipe, "a cat", **settings))
    other = last_latents(pipe, "a cat", **{**settings, "seed": 9})
    same = torch.equal(last_latents(Varied(pipe, 9, 1.0), "a cat", **settings), other)
    assert same == (settings.keys() == {"seed", "steps"})


def test_varied_goes_further_with_more_strength(pipe):
    own = last_latents(pipe, "a cat", **FAST)
    far = [(last_latents(Varied(pipe, 9, strength), "a cat", **FAST) - own).norm() for strength in (0.1, 0.3, 0.6, 1)]
    assert 0 < far[0] < far[1] < far[2] < far[3]


def test_varied_keeps_the_noise_of_its_variance(pipe):
    seen: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    next(Varied(pipe, 9, 0.5).steps("a cat", width=256, height=256, **FAST))
    assert seen[0].std() == pytest.approx(1, abs=0.03)


def test_varied_counts_both_seeds_up(pipe):
    first, second = Varied(pipe, 9, 0.4)("a cat", seed=5, count=2, **FAST)
    alone, = Varied(pipe, 10, 0.4)("a cat", seed=6, **FAST)
    assert np.abs(np.asarray(second, int) - np.asarray(alone, int)).max() <= 1      # the last bits of float32
    told = json.loads(second.info["ldm"])
    assert told == json.loads(alone.info["ldm"])
    assert (told["task"], told["seed"], told["variation_seed"], told["variation_strength"]) == ("variation", 6, 10, 0.4)
    assert json.loads(first.info["ldm"])["variation_seed"] == 9


@pytest.mark.parametrize(("seed", "strength", "message"), [
    (-1, 0.5, "variation_seed -1 is outside"), (0, -0.1, r"variation_strength -0.1 is outside 0..1; try 0"),
    (0, 1.1, r"variation_strength 1.1 is outside 0..1; try 1"), (0, math.nan, "variation_strength nan")])
def test_varied_refuses_what_is_out_of_range(pipe, seed, strength, message):
    with pytest.raises(ValueError, match=message):
        Varied(pipe, seed, strength)


def test_varied_starts_from_an_input_picture_too(pipe, photo):
    settings = {"image": photo(), "strength": 0.5, **FAST}
    own, other = (last_latents(pipe, "a cat", seed=seed, **settings) for seed in (0, 9))
    assert torch.equal(last_latents(Varied(pipe, 9, 0.0), "a cat", **settings), own)
    assert torch.equal(last_latents(Varied(pipe, 9, 1.0), "a cat", **settings), other)
    half = last_latents(Varied(pipe, 9, 0.5), "a cat", **settings)
    assert not torch.equal(half, own) and not torch.equal(half, other)


@pytest.mark.parametrize("blend", [slerp, torch.lerp])
def test_path_begins_passes_and_ends_at_its_prompts(pipe, blend):
    prompts, settings = ["a cat", "a dog", ""], {"seed": 3, "negative_prompt": "a bird", **FAST}
    frames = list(draw_path(pipe, prompts, 5, blend, **settings))
    for frame, prompt in zip(frames[::2], prompts, strict=True):
        assert frame.tobytes() == pipe(prompt, **settings)[0].tobytes()
    assert len({frame.tobytes() for frame in frames}) == 5


def test_path_may_begin_at_the_negative_prompt(pipe):
    """Which is encoded as itself."""
    first, _ = draw_path(pipe, ["", "a dog"], 2, **FAST)
    assert first.tobytes() == pipe("", **FAST)[0].tobytes()


def test_path_goes_through_prompts_of_other_lengths(pipe):
    """One chunk and two: the context of the one is repeated, which changes nothing but the last bits."""
    prompts = ["a cat", "a dog BREAK in snow"]
    frames = list(draw_path(pipe, prompts, 3, **FAST))
    for frame, prompt in zip(frames[::2], prompts, strict=True):
        assert np.abs(np.asarray(frame, int) - np.asarray(pipe(prompt, **FAST)[0], int)).max() <= 1


def test_path_refuses_a_negative_prompt_of_another_length_before_any_work(pipe):
    prompts = ["a" + " BREAK a" * n for n in (4, 6)]
    with pytest.raises(ValueError, match="prompts of 3, 5, 7 chunks make 105 together"):
        draw_path(pipe, prompts, 3, negative_prompt="b BREAK b BREAK b", **FAST)


def test_path_takes_a_picture_to_redraw(pipe, photo):
    frames = list(draw_path(pipe, ["a cat", "a dog"], 2, image=photo(40, 24), strength=0.5, **FAST))
    assert [frame.size for frame in frames] == [(40, 24)] * 2


@pytest.mark.parametrize(("prompts", "frames", "settings", "message"), [
    (["a cat"], 5, {}, "a path has 2 prompts or more, not 1; add where it shall lead"),
    (["a cat", "a dog", "a bird"], 2, {}, r"frames 2 is outside 3..10000; try 3"),
    (["a cat", "a dog"], 2, {"count": 2}, "count 2 is not 1; a path has one picture to a frame"),
    (["a cat", "a [dog:bird:0.5]"], 2, {}, r"changes on the way, which cannot be blended; write \[ as"),
    (["a cat", "a dog"], 2, {"steps": 0}, "steps 0 is outside"),
])
def test_path_refuses_what_it_cannot_do_before_any_work(pipe, monkeypatch, prompts, frames, settings, message):
    monkeypatch.setattr(pipe.text, "forward", None)
    with pytest.raises(ValueError, match=message):
        draw_path(pipe, prompts, frames, **{**FAST, **settings})


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animation_holds_frames_pace_and_metadata(tmp_path, photo, suffix):
    frames, path = [photo(40, 24, seed) for seed in range(5)], tmp_path / "new" / f"path{suffix}"
    told = {"prompts": ["a cat", "ein Häuschen 狗"], "frames": 5}
    save_animation(frames, path, 8.0, told)
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (5, (40, 24), 0)
        comment = animation.info.get("comment")
        for i, frame in enumerate(frames):
            animation.seek(i)
            animation.load()
            assert animation.info["duration"] in (120, 125)                 # a GIF counts hundredths of a second
            difference = np.asarray(animation.convert("RGB"), int) - np.asarray(frame, int)
            assert np.abs(difference).mean() < 6                            # of 255
    read = json.loads(comment) if comment else read_metadata(path)
    assert told.items() <= read.items()
    assert [file.name for file in path.parent.iterdir()] == [path.name]     # nothing half-written


def test_animation_is_refused_before_the_work(tmp_path):
    (tmp_path / "there.gif").touch()
    with pytest.raises(ValueError, match=r"path.png is neither a .webp nor a .gif; try .*path.webp"):
        check_animation(tmp_path / "path.png", 8)
    with pytest.raises(ValueError, match="is there already and is not overwritten"):
        check_animation(tmp_path / "there.gif", 8)
    for fps in (0, 51):
        with pytest.raises(ValueError, match=f"fps {fps} is outside 1..50"):
            check_animation(tmp_path / "path.gif", fps)
