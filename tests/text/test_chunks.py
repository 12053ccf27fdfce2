"""From a prompt to chunks of tokens and weights, and on to a context: where chunks end, what weights do."""

import pytest
import torch
from torch import Tensor

from ldm.text import CLIPText, CLIPTextConfig, Tokenizer, chunk, encode, same_length
from ldm.text.chunks import emphasize

BOS, EOS, COMMA, A, B = 49406, 49407, 267, 320, 321


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def text() -> CLIPText:
    torch.manual_seed(0)
    text = CLIPText(CLIPTextConfig(width=64, layers=2)).eval().requires_grad_(False)
    text.final_norm.bias.normal_(0.1)                   # as in a trained one: a mean to restore
    return text


def lengths(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return [len(tokens) for tokens in chunk(tokenizer, prompt).tokens]


@pytest.mark.parametrize("prompt", ["", "a cat", "a photo, of: a cat | 3.5!", "a " * 75])
def test_chunk_of_a_short_plain_prompt_is_what_the_tokenizer_gives(tokenizer, prompt):
    for syntax in ("a1111", "plain"):
        chunks = chunk(tokenizer, prompt, syntax)
        assert torch.equal(chunks.ids, tokenizer(prompt)) and chunks.ids.dtype == torch.long
        assert torch.equal(chunks.weights, torch.ones(1, 77))


def test_chunk_weighs_the_text_alone(tokenizer):
    chunks = chunk(tokenizer, "a (red:1.5) fox")
    assert chunks.ids[0, :6].tolist() == [BOS, *tokenizer.encode("a red fox"), EOS, EOS]
    expected = torch.ones(1, 77)
    expected[0, 2] = 1.5
    assert torch.equal(chunks.weights, expected)


def test_chunk_pads_as_the_tokenizer():
    ids = chunk(Tokenizer(pad=0), "a").ids
    assert ids[0, :4].tolist() == [BOS, A, EOS, 0] and not ids[0, 3:].any()


def test_plain_syntax_keeps_brackets(tokenizer):
    assert chunk(tokenizer, "(a:1.3)", "plain").tokens == [tokenizer.encode("(a:1.3)")]


@pytest.mark.parametrize(("prompt", "expected"), [
    ("a " * 76, [75, 1]), ("a " * 150, [75, 75]), ("a " * 151, [75, 75, 1]),
    ("a BREAK b", [1, 1]), ("a " * 80 + "BREAK b", [75, 5, 1]), ("a " * 75 + "BREAK b", [75, 1]),
    ("BREAK", [0]), ("BREAK a", [0, 1]), ("a BREAK", [1]), ("a BREAK BREAK b", [1, 0, 1]),
])
def test_chunks_end_where_full_and_at_break(tokenizer, prompt, expected):
    assert lengths(tokenizer, prompt) == expected


@pytest.mark.parametrize(("before", "expected"), [
    (54, [75, 20]),                                     # the comma is the 21st from the end: too far back
    (55, [56, 40]), (70, [71, 40]), (74, [75, 40]),
    (75, [75, 41]),                                     # the comma itself does not fit
])
def test_chunks_go_back_to_the_last_comma(tokenizer, before, expected):
    chunks = chunk(tokenizer, "a " * before + ", " + "b " * 40)
    assert [len(tokens) for tokens in chunks.tokens] == expected
    assert sum(chunks.tokens, []) == [A] * before + [COMMA] + [B] * 40


def test_chunks_go_back_to_the_last_of_several_commas_with_the_weights(tokenizer):
    chunks = chunk(tokenizer, "a " * 60 + ", a a a, (b:2) " + "b " * 40)
    assert [len(tokens) for tokens in chunks.tokens] == [65, 41]
    assert chunks.weights[0].tolist() == [1] * 77 and chunks.weights[1].tolist() == [1, 2] + [1] * 75


def test_long_prompts_are_read_without_a_warning(tokenizer):
    assert lengths(tokenizer, "fox " * 1000) == [75] * 13 + [25]


def test_encode_puts_chunks_side_by_side(tokenizer, text):
    context = encode(text, tokenizer, ["red fox BREAK snow"])
    apart = torch.cat([text(tokenizer("red fox")), text(tokenizer("snow"))], dim=1)
    torch.testing.assert_close(context, apart, rtol=0, atol=1e-6)


def test_encode_of_plain_prompts_is_the_encoder_alone_bit_for_bit(tokenizer, text):
    prompts = ["a red fox", "", "snow, rain"]
    expected = text(tokenizer(prompts))
    assert torch.equal(encode(text, tokenizer, prompts), expected)
    assert torch.equal(encode(text, tokenizer, prompts, syntax="plain"), expected)


def test_emphasize_scales_tokens_and_restores_the_mean():
    context = torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(0)) + 0.1
    weights = torch.ones(2, 77)
    weights[0, 3:9], weights[1, 5] = 1.5, 0.5
    out = emphasize(context, weights)
    torch.testing.assert_close(out.mean((1, 2)), context.mean((1, 2)), rtol=1e-4, atol=0)
    ratio = (out / context).mean(2)                     # one factor per token: the weight times the chunk's own
    torch.testing.assert_close(ratio / ratio[:, :1], weights, rtol=1e-4, atol=0)
    assert (out[0, 0] != context[0, 0]).all()


def test_emphasize_is_the_identity_for_weights_of_1():
    context = torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    weights = torch.ones(2, 77)
    assert emphasize(context, weights) is context
    weights[0, 3] = 1.3
    assert torch.equal(emphasize(context, weights)[1], context[1])
    assert emphasize(context, weights).dtype == torch.bfloat16


def test_encode_of_a_prompt_does_not_depend_on_its_batch_mates(tokenizer, text):
    prompts = ["a (red:1.4) fox", "a fox", "((snow)) [rain]"]
    together = encode(text, tokenizer, prompts)
    alone = torch.cat([encode(text, tokenizer, [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[0] - encode(text, tokenizer, ["a red fox"])[0]).abs().max() > 1e-2


def attend(x: Tensor, context: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(x, context, context)


def test_same_length_repeats_whole_contexts(tokenizer, text):
    short, long, longer = (encode(text, tokenizer, [p]) for p in ("a", "a BREAK b", "a BREAK b BREAK c"))
    a, b, c = same_length(short, long, longer)
    assert a.shape == b.shape == c.shape == (1, 6 * 77, 64)
    assert torch.equal(a, short.repeat(1, 6, 1)) and torch.equal(c, longer.repeat(1, 2, 1))
    together = encode(text, tokenizer, ["a", "a BREAK b"])
    torch.testing.assert_close(together, torch.cat([short.repeat(1, 2, 1), long]), rtol=0, atol=1e-6)


def test_same_length_changes_nothing_for_attention():
    """And an empty chunk, AUTOMATIC1111's optional way, does."""
    g = torch.Generator().manual_seed(0)
    x, context, empty = (torch.randn(1, n, 64, generator=g) for n in (50, 77, 77))
    repeated, _ = same_length(context, torch.cat([context, empty], dim=1))
    torch.testing.assert_close(attend(x, repeated), attend(x, context), rtol=0, atol=1e-5)
    assert (attend(x, torch.cat([context, empty], dim=1)) - attend(x, context)).abs().max() > 1e-2


def test_same_length_refuses_what_grows_beyond_measure():
    contexts = [torch.zeros(1, 77 * n, 1) for n in (5, 7, 9)]
    with pytest.raises(ValueError, match="prompts of 5, 7, 9 chunks make 315 together, more than 64; shorten one"):
        same_length(*contexts)


def test_encode_skips_layers(tokenizer, text):
    last, skipped = (encode(text, tokenizer, ["a fox"], clip_skip=n) for n in (1, 2))
    assert torch.equal(skipped, text(tokenizer("a fox"), skip=2)) and not torch.equal(last, skipped)
    with pytest.raises(ValueError, match=r"clip skip 3 is outside 1\.\.2; 1 uses every layer"):
        encode(text, tokenizer, ["a fox"], clip_skip=3)
