"""Plans say beforehand what drawing then does."""

import math

import pytest
from PIL import Image

from ldm import Pipeline
from ldm.samplers import SAMPLERS

PHOTO, MASK = Image.new("RGB", (61, 43), "teal"), Image.new("L", (61, 43), "white")


@pytest.fixture
def calls(pipe: Pipeline) -> list[tuple[float, tuple[int, ...]]]:
    """Fills with the timestep and the shape of x of each call of the network."""
    seen: list = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[1][0].item(), inputs[0].shape)))
    return seen


@pytest.mark.parametrize("arguments", [{}, {"image": PHOTO, "strength": 0.4}, {"image": PHOTO, "mask": MASK}],
                         ids=["noise", "picture", "mask"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plan_tells_every_call_of_the_network(pipe, calls, sampler, arguments):
    plan = pipe.plan("a cat", sampler=sampler, steps=6, count=2, **arguments)
    assert calls == []
    *_, last = pipe.steps("a cat", sampler=sampler, steps=6, count=2, **arguments)
    assert len(calls) == plan.calls == len(plan.timesteps) and plan.latents == last.x.shape
    assert [t for t, _ in calls] == pytest.approx(plan.timesteps, abs=1e-3)
    assert {shape for _, shape in calls} == {plan.latents}


def test_plan_tells_the_chunks_of_every_text(pipe):
    plan = pipe.plan(["a cat", "a [cat:dog:0.5]"], negative_prompt="blur " * 80, steps=4)
    lengths = {text: [len(tokens) for tokens in chunks] for text, chunks in plan.chunks.items()}
    assert lengths == {"a cat": [2], "a dog": [2], "blur " * 80: [75, 5]}


def test_plan_describes_itself(pipe):
    [*lines] = pipe.plan("a cat", PHOTO, MASK, steps=4, strength=0.5, seed=7, count=2,
                         negative_prompt="cat " * 74 + "strawberries " * 3).describe().splitlines()
    sigmas = pipe.schedule.sigmas(4, "leading")[2:]
    assert lines[:5] == [
        "pictures: 2, painted at 61x43 pixels, latents [2, 4, 6, 8], seeds 7 to 8",
        "from a picture of 61x43 pixels, 100.0% of it repainted, seen from (0, 0) to (61, 43), strength 0.5",
        "sampler: ddim, spacing leading, guidance 3",
        f"noise levels: {' '.join(f'{sigma:.4g}' for sigma in sigmas)}",
        "network calls: 2, at timesteps 251 1",
    ]
    assert lines[5:8] == ["text 'a cat': 2 of 75 tokens", "  cut in two by the end of a chunk: nothing",
                          f"text {'cat ' * 74 + 'strawberries ' * 3!r}: 75 + 2 of 75 tokens"]
    assert lines[-1] == "  programs without chunks would cut: strawberries strawberries"


def test_plan_tells_what_only_masked_sees(pipe):
    mask = Image.new("L", (61, 43))
    mask.paste(255, (50, 10, 60, 20))
    text = pipe.plan("a cat", PHOTO, mask, only_masked=5).describe()
    assert "painted at 64x64 pixels" in text and "3.8% of it repainted, seen from (41, 5) to (61, 25)" in text


def test_plan_takes_a_moment_even_for_999_steps(pipe):
    plan = pipe.plan("a cat", sampler="heun", steps=999)
    assert plan.calls == 2 * 999 - 1 and math.isclose(plan.timesteps[0], 999)


@pytest.mark.parametrize(("prompts", "settings", "message"), [
    (["a"] * 3, {"seed": 2**63 - 3}, "seed 9223372036854775805 is outside"),
    (["a " * 75 * 9], {"negative_prompt": "b " * 75 * 8}, "prompts of 8, 9 chunks make 72 together, more than 64"),
])
def test_plan_refuses_what_sampling_would(pipe, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe.plan(prompts, steps=4, **settings)
