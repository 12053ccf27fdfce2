"""What the page explains: attention that sums to 1, equals the formula, and does not change the picture."""

import math
import warnings

import pytest
import torch

from ldm.images import digest
from ldm.preview import make_preview
from ldm.text import Tokenizer
from ldm.unet.blocks import Attention, TransformerBlock
from ldm.web.explain import (
    PADDING,
    START,
    Recorder,
    by_word,
    explain,
    grid_of,
    heat_map,
    probabilities,
    tokens_of,
    words_of,
)

PROMPT = "3d render of an (ultramarine:1.3) fox"


def layers(pipe) -> list[Attention]:
    return [block.cross_attn for block in pipe.unet.modules() if isinstance(block, TransformerBlock)]


def told(pipe, prompt=PROMPT, **settings):
    preview = make_preview(pipe.vae)
    reports = []
    found = explain(pipe, prompt, {"steps": 4, "seed": 3, **settings}, lambda z: preview(z)[0],
                    lambda *report: reports.append(report[:2]))
    return found, reports


def test_probabilities_of_a_hand_made_layer_equal_the_direct_computation():
    torch.manual_seed(0)
    layer = Attention(6, heads=2, context_width=5).requires_grad_(False)
    x, context = torch.randn(1, 4, 6), torch.randn(1, 3, 5)
    got = probabilities(layer, x, context)
    q, k = x[0] @ layer.q.weight.T, context[0] @ layer.k.weight.T
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for place in range(4):
            scores = [math.exp(float(q[place, part] @ k[token, part]) / math.sqrt(3)) for token in range(3)]
            expected = torch.tensor(scores) / sum(scores)
            assert torch.allclose(got[0, head, place], expected, atol=1e-6)


def test_probabilities_are_those_that_the_layer_weighs_its_values_with(pipe):
    """Packed or not: out(probabilities v) is what the layer returns."""
    layer = layers(pipe)[0]
    x = torch.randn(2, 9, layer.q.weight.shape[0])
    context = torch.randn(2, 77, layer.k.weight.shape[1])
    with torch.no_grad():
        values = layer.v(context).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        mixed = (probabilities(layer, x, context) @ values).transpose(1, 2).flatten(2)
        assert torch.allclose(layer.out(mixed), layer(x, context), atol=1e-5)


def test_maps_of_all_tokens_sum_to_one_at_each_place(pipe):
    context = pipe.encode_prompt([PROMPT])
    recorder = Recorder(pipe.unet, context, 7, 5)                       # odd sides: levels round up
    with recorder.watch(), torch.no_grad():
        pipe.unet(torch.randn(1, 4, 7, 5), torch.tensor([500.0]), context)
    assert recorder.count == len(layers(pipe))
    assert torch.allclose(recorder.probabilities.sum(0), torch.ones(7, 5), atol=1e-5)
    words = by_word(recorder.probabilities, tokens_of(pipe.tokenizer, PROMPT, "a1111"), 56, 40)
    assert torch.allclose(sum(word.heat for word in words), torch.ones(56, 40), atol=1e-4)
    assert sum(word.share for word in words) == pytest.approx(1, abs=1e-4)


def test_map_of_a_level_equals_its_probabilities(pipe):
    """One layer at the latents' own size, so that nothing is resized: the mean over its heads, in rows and columns."""
    context, seen = pipe.encode_prompt([PROMPT]), {}
    recorder = Recorder(pipe.unet, context, 6, 4)
    [layer, *_] = layers(pipe)
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs))
    with recorder.watch(), torch.no_grad():
        pipe.unet(torch.randn(1, 4, 6, 4), torch.tensor([500.0]), context)
        hook.remove()
        recorder.total.zero_()
        recorder.count = 0
        recorder.see(layer, seen["inputs"], torch.empty(0))
    expected = probabilities(layer, *seen["inputs"])[0].mean(0)         # [24 77]
    assert torch.allclose(recorder.probabilities[5, 2, 3], expected[2 * 4 + 3, 5], atol=1e-6)


def test_recorder_counts_the_row_under_the_prompt_alone(pipe):
    cond, uncond = pipe.encode_prompt([PROMPT]), pipe.encode_prompt([""])
    x, maps = torch.randn(1, 4, 8, 8), []
    for contexts in (cond, torch.cat([uncond, cond])):
        recorder = Recorder(pipe.unet, cond, 8, 8)
        with recorder.watch(), torch.no_grad():
            pipe.unet(x, torch.tensor([500.0]), contexts)
        maps.append(recorder.probabilities)
    assert torch.allclose(*maps, atol=1e-5)
    with pytest.raises(ValueError, match="no cross-attention to this context"), recorder.watch(), torch.no_grad():
        other = Recorder(pipe.unet, cond, 8, 8)
        pipe.unet(x, torch.tensor([500.0]), uncond)
        _ = other.probabilities


def test_copies_of_a_context_count_as_one(pipe):
    """Guidance repeats the shorter context to the length of the longer one."""
    context, x, maps = pipe.encode_prompt([PROMPT]), torch.randn(1, 4, 8, 8), []
    for copies in (1, 3):
        recorder = Recorder(pipe.unet, context, 8, 8)
        with recorder.watch(), torch.no_grad():
            pipe.unet(x, torch.tensor([500.0]), context.repeat(1, copies, 1))
        maps.append(recorder.probabilities)
    assert torch.allclose(*maps, atol=1e-5)


def test_recording_leaves_the_picture_as_it_is_bit_for_bit(pipe):
    [plain] = pipe(PROMPT, steps=4, seed=3)
    found, reports = told(pipe)
    assert digest(found.picture) == digest(plain)
    assert reports == [(i, 4) for i in (1, 2, 3, 4)]
    assert [moment.i for moment in found.moments] == [1, 2, 3, 4]
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_hooks_are_removed_where_drawing_fails(pipe):
    def stop(*_):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        explain(pipe, PROMPT, {"steps": 4}, lambda z: make_preview(pipe.vae)(z)[0], stop)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_prompt_that_changes_is_explained_as_it_ends(pipe, monkeypatch):
    counts = []
    watch = Recorder.watch
    monkeypatch.setattr(Recorder, "watch", lambda self: counts.append(self) or watch(self))
    found, _ = told(pipe, "a [cat:dog:0.5]")
    assert [word.word for word in found.words] == ["a", "dog", PADDING, START]
    assert counts[0].count == 2 * len(layers(pipe))                     # the last 2 of 4 steps


def test_words_join_the_pieces_of_one_and_cover_every_place():
    chunks = tokens_of(Tokenizer(), "an ultramarinefox, BREAK red", "a1111")
    assert len(chunks) == 2 and len(chunks[0]) > 4                      # the long word is several tokens
    places = words_of(chunks)
    assert len(places) == 2 * 77
    assert places[0] == places[77] == START
    names = list(dict.fromkeys(place for place in places if place[0].isdigit()))
    assert [name.split(" ", 1)[1] for name in names] == ["an", "ultramarinefox", ",", "red"]
    assert places[len(chunks[0]) + 1 : 77] == [PADDING] * (76 - len(chunks[0]))


def test_tokens_have_their_weights():
    [tokens] = tokens_of(Tokenizer(), "a (red:1.3) fox", "a1111")
    assert [(token.text.strip(), token.weight) for token in tokens] == [
        ("a", 1.0), ("red", pytest.approx(1.3)), ("fox", 1.0)]


@pytest.mark.parametrize("places, expected", [(35, (7, 5)), (12, (4, 3)), (4, (2, 2))])
def test_grid_of_a_level(places, expected):
    assert grid_of(places, 7, 5) == expected


def test_grid_of_no_level_is_refused():
    with pytest.raises(ValueError, match="13 places are no level"):
        grid_of(13, 7, 5)


def test_heat_map_is_brightest_where_the_word_gets_most(pipe):
    found, _ = told(pipe)
    word = max(found.words, key=lambda word: (word.heat.max() - word.heat.min()).item())
    grey = heat_map(word, found.picture.convert("L").point([128] * 256)).convert("L")
    y, x = divmod(int(word.heat.argmax()), word.heat.shape[1])
    assert grey.getpixel((x, y)) == grey.getextrema()[1]


def test_explaining_says_which_words_the_model_never_saw():
    """As drawing does: a warning, which the studio turns into a note."""
    from ldm import Pipeline

    bundled = Pipeline.load(device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told(bundled, "3d render of a quokka", steps=1, spacing="trailing")
    assert any("quokka" in str(w.message) for w in caught)
