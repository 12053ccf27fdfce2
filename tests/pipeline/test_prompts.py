"""Prompts through the pipeline: weights, chunks and changes on the way reach the UNet, and plain prompts stay."""

import json
import math
import warnings

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm import Pipeline
from ldm.loading import save_parts
from ldm.samplers import CFG, SAMPLERS, Denoiser, seeded_noise
from ldm.text import CLIPText, CLIPTextConfig

FAST = {"steps": 4}
PHOTO = Image.new("RGB", (64, 64), "orange")


def latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **settings)
    return last.x


def contexts(pipe: Pipeline, *args, **settings) -> list[Tensor]:
    """What the UNet attends to at each evaluation: [2B S W], without the prompt first."""
    seen: list[Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    latents(pipe, *args, **settings)
    hook.remove()
    return seen


@pytest.mark.parametrize("prompts", [["a red cat"], ["a cat", "a dog, running"]])
def test_plain_prompts_are_drawn_as_without_a_grammar_bit_for_bit(pipe, prompts):
    with torch.no_grad():
        cond, uncond = pipe.text(pipe.tokenizer(prompts)), pipe.text(pipe.tokenizer("blur"))
    assert torch.equal(pipe.encode_prompt(prompts), cond)
    denoise = CFG(Denoiser(pipe.unet, pipe.schedule), cond, uncond, 3.0)
    sigmas, noise = pipe.schedule.sigmas(4, "karras"), seeded_noise(range(len(prompts)))
    x = math.hypot(1, sigmas[0]) * noise(torch.empty(len(prompts), 4, 8, 8))
    *_, last = SAMPLERS["dpmpp_2m"](denoise, x, sigmas, noise)
    settings = {"negative_prompt": "blur", "sampler": "dpmpp_2m", "spacing": "karras", **FAST}
    for syntax in ("a1111", "plain"):
        assert torch.equal(latents(pipe, prompts, prompt_syntax=syntax, **settings), last.x)
    assert torch.equal(contexts(pipe, prompts, **settings)[0], torch.cat([uncond.expand_as(cond), cond]))


def test_weights_reach_the_picture(pipe):
    assert not torch.equal(latents(pipe, "a cat", **FAST), latents(pipe, "a (cat:1.5)", **FAST))
    literal = latents(pipe, "a (cat:1.5)", prompt_syntax="plain", **FAST)
    assert torch.equal(literal, latents(pipe, r"a \(cat\:1.5\)", **FAST))


def test_a_picture_does_not_depend_on_its_batch_mates(pipe):
    """Whatever their weights, lengths and changes."""
    prompts = ["a (cat:1.4)", "a dog", "a fox, " * 30, "[snow|rain] BREAK sun BREAK [moon:star:0.5]"]
    together = latents(pipe, prompts, negative_prompt="(blur:1.2)", **FAST)
    for i, prompt in enumerate(prompts):
        alone = latents(pipe, prompt, negative_prompt="(blur:1.2)", seed=i, **FAST)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-3)


def test_long_prompts_are_drawn_whole_and_without_a_warning(pipe):
    long = "cat " * 80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = contexts(pipe, long + "red", **FAST)
    assert {context.shape for context in seen} == {(2, 154, 64)}
    assert not torch.equal(seen[0][1], contexts(pipe, long + "blue", **FAST)[0][1])
    assert torch.equal(seen[0][0], pipe.encode_prompt([""])[0].repeat(2, 1))


def test_prompts_change_at_the_step(pipe):
    cat, dog = (pipe.encode_prompt([text])[0] for text in ("a cat", "a dog"))
    for prompt, expected in (("a [cat:dog:0.5]", "ccdd"), ("a [cat:dog:1]", "cddd"), ("a [cat|dog]", "cdcd")):
        seen = contexts(pipe, prompt, **FAST)
        assert "".join("c" if torch.equal(both[1], cat) else "d" for both in seen) == expected
        assert all(torch.equal(both[1], cat) or torch.equal(both[1], dog) for both in seen)


def test_negative_prompts_change_too(pipe):
    cat, dog = (pipe.encode_prompt([text])[0] for text in ("cat", "dog"))
    first, *_, last = contexts(pipe, "a fox", negative_prompt="[cat:dog:0.5]", **FAST)
    assert torch.equal(first[0], cat) and torch.equal(last[0], dog) and torch.equal(first[1], last[1])


def test_img2img_counts_its_own_steps_by_the_share_of_all(pipe):
    """As AUTOMATIC1111: 0.25 of 8 is step 2 of the 4 that strength 0.5 leaves."""
    cat = pipe.encode_prompt(["cat"])[0]
    seen = contexts(pipe, "[cat:dog:0.25]", image=PHOTO, steps=8, strength=0.5)
    assert [torch.equal(both[1], cat) for both in seen] == [True, True, False, False]


def test_each_text_is_encoded_once(pipe):
    seen: list[int] = []
    pipe.text.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    latents(pipe, "a [cat|dog]", steps=8)
    assert seen == [1, 1, 1, 1]                         # two prompts, each with the negative one


def test_changing_prompts_work_with_every_sampler(pipe):
    for sampler in SAMPLERS:
        drawn = [latents(pipe, prompt, sampler=sampler, steps=6) for prompt in ("a cat", "a [cat:dog:0.5]")]
        assert drawn[1].isfinite().all() and not torch.equal(*drawn)


def test_metadata_keeps_the_prompt_as_written(pipe):
    prompt = "a ([cat|dog]:1.2) BREAK [sun:moon:0.5]"
    image, = pipe(prompt, clip_skip=1, negative_prompt="(blur)", **FAST)
    told = json.loads(image.info["ldm"])
    assert (told["prompt"], told["negative_prompt"], told["prompt_syntax"]) == (prompt, "(blur)", "a1111")
    again, = pipe(prompt, negative_prompt="(blur)", **FAST)
    assert again.tobytes() == image.tobytes()


def test_clip_skip_is_checked_before_any_work(pipe):
    with pytest.raises(ValueError, match=r"clip_skip 2 is outside 1\.\.1; try 1"):    # the tiny model has one layer
        pipe.plan("a cat", clip_skip=2)


def test_clip_skip_reaches_the_text_encoder(pipe):
    pipe.text = CLIPText(CLIPTextConfig(width=64, layers=2))
    context = contexts(pipe, "a cat", clip_skip=2, **FAST)[0][1]
    with torch.no_grad():
        assert torch.equal(context, pipe.text(pipe.tokenizer("a cat"), skip=2)[0])
    assert not torch.equal(context, pipe.encode_prompt(["a cat"])[0])


def test_prompts_that_grow_beyond_measure_are_refused(pipe):
    prompts = ["a" + " BREAK a" * n for n in (4, 6, 8)]
    with pytest.raises(ValueError, match="prompts of 1, 5, 7, 9 chunks make 315 together, more than 64"):
        pipe(prompts, **FAST)


def test_unseen_words_are_those_of_the_text(pipe, tmp_path):
    """Not those of the grammar, and those of every step."""
    save_parts(tmp_path / "small.safetensors", pipe.vae, pipe.unet, pipe.text, {"size": 64, "guidance": 3.0},
               pipe.tokenizer(["a red cat"]).unique())
    small = Pipeline.load(tmp_path / "small.safetensors", "cpu", "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents(small, "a (red:1.3) [cat:red:0.5] BREAK [a|red]", **FAST)
    with pytest.warns(UserWarning, match="was trained without dog; these words will not show"):
        latents(small, "a (red:1.3) [cat:dog:0.5]", **FAST)
