"""Textual inversions: files in every layout, and words that become vectors wherever a prompt may say them."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm import CheckpointError
from ldm.plugins import read_embedding, with_embedding, without_embedding
from ldm.text import CLIPText, CLIPTextConfig, Glossary, Tokenizer, chunk, encode
from ldm.text.inversion import InversionTokenizer

WIDTH = 64
THREE = "cat dog fox"                                   # one token each


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def text() -> CLIPText:
    torch.manual_seed(0)
    text = CLIPText(CLIPTextConfig(width=WIDTH, layers=2)).eval().requires_grad_(False)
    text.final_norm.bias.normal_(0.1)                   # as in a trained one: a mean to restore
    return text


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def knowing(tokenizer: Tokenizer, vectors: Tensor) -> Callable[..., InversionTokenizer]:
    """knowing("<my>", hat=2): a tokenizer with words of three, or so many, vectors."""
    return lambda *words, **counts: InversionTokenizer(
        tokenizer, dict.fromkeys(words, vectors) | {word: vectors[:n] for word, n in counts.items()})


FILES = {
    "A1111 .pt": ("my.pt", lambda v: {"string_to_token": {"*": 265}, "string_to_param": {"*": v}, "name": "other",
                                      "step": 500, "sd_checkpoint": "a", "sd_checkpoint_name": None}, "my"),
    "first .pt": ("my.pt", lambda v: {"string_to_token": {"*": 265}, "string_to_param": nn.ParameterDict({"*": v})},
                  "my"),                                # of rinongal/textual_inversion
    "A1111 .safetensors": ("my.v2.safetensors", lambda v: {"emb_params": v}, "my.v2"),
    "diffusers .bin": ("learned_embeds.bin", lambda v: {"<toy>": v}, "<toy>"),
    "diffusers .safetensors": ("learned_embeds.safetensors", lambda v: {"<toy>": v}, "<toy>"),
    "bare tensor": ("my.pt", lambda v: v, "my"),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", FILES)
def test_files_of_every_layout_give_word_and_vectors(kind, count, vectors, tmp_path):
    name, content, word = FILES[kind]
    for given in [vectors[:count], vectors[:count].half()] + ([vectors[0]] if count == 1 else []):
        save = save_file if name.endswith("safetensors") else torch.save
        save(content(given.clone()), tmp_path / name)
        found, read = read_embedding(tmp_path / name)
        assert found == word and torch.equal(read, given.float().view(count, WIDTH))


@pytest.mark.parametrize("prompt", [
    "{}", "a photo of {}", "{}, snow", "a ({}:1.4) in snow", "[{}] (snow)", "a BREAK {} BREAK snow", "({}) ({})",
    "{} {}", "snow, " * 30 + "{}"])
def test_a_word_is_read_as_its_vectors(prompt, text, tokenizer, knowing, vectors):
    """As if the vectors were those of as many ordinary tokens, in whatever grammar."""
    text.token_embedding.weight[tokenizer.encode(THREE)] = vectors
    expected = encode(text, tokenizer, [prompt.replace("{}", THREE)])
    text.token_embedding.weight[tokenizer.encode(THREE)] = 0
    found = encode(text, knowing("<my>"), [prompt.replace("{}", "<my>")])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_other_prompts_of_a_batch_stay_bit_for_bit(text, tokenizer, knowing):
    plain = encode(text, tokenizer, ["a hat in snow", "a (red:1.3) fox", ""])
    mixed = encode(text, knowing("<my>"), ["a <my> in snow", "a (red:1.3) fox", ""])
    assert torch.equal(mixed[1:], plain[1:]) and not torch.allclose(mixed[0], plain[0])
    assert torch.equal(encode(text, knowing("<my>"), ["a hat in snow", "a (red:1.3) fox", ""]), plain)
    assert not text.token_embedding._forward_hooks


def test_the_encoder_is_left_as_it_was_after_an_error(text, knowing):
    with pytest.raises(ValueError, match="clip skip 9"):
        encode(text, knowing("<my>"), ["<my>"], clip_skip=9)
    assert not text.token_embedding._forward_hooks


def test_clip_skip_and_plain_syntax_know_the_words(text, tokenizer, knowing, vectors):
    text.token_embedding.weight[tokenizer.encode(THREE)] = vectors
    for settings in ({"clip_skip": 2}, {"syntax": "plain"}):
        expected = encode(text, tokenizer, [f"a {THREE}"], **settings)
        torch.testing.assert_close(encode(text, knowing("<my>"), ["a <my>"], **settings), expected, rtol=0, atol=1e-6)


def test_encoding_follows_the_dtype_of_the_encoder(text, knowing):
    assert encode(text.bfloat16(), knowing("<my>"), ["a <my>"]).dtype == torch.bfloat16


def test_gradients_reach_the_vectors(text, tokenizer):
    """So that an inversion can be trained through the same path."""
    vectors = torch.randn(2, WIDTH, requires_grad=True)
    encode(text, InversionTokenizer(tokenizer, {"my": vectors}), ["a my"]).square().sum().backward()
    assert vectors.grad is not None and vectors.grad.abs().min() > 0


@pytest.mark.parametrize(("prompt", "count"), [
    ("my-style", 3), ("MY-Style", 3), ("a my-style, b", 3), ("my-styles", 0), ("amy-style", 0), ("my-style-two", 2),
    ("my-style my-style-two", 5), (r"my-style \(x\)", 1), ("my-style(x)", 3), ("<toy>", 1), ("a<toy>b", 1),
    ("my style", 0)])
def test_words_are_found_whole_in_any_case_and_the_longest_first(prompt, count, tokenizer, vectors):
    known = InversionTokenizer(tokenizer, {"my-style": vectors, "my-style-two": vectors[:2], "<toy>": vectors[:1],
                                           "my-style (x)": vectors[:1]})
    tokens = [token for tokens in chunk(known, prompt).tokens for token in tokens]
    assert sum(token > 49407 for token in tokens) == count


def test_tokens_around_a_word_are_those_of_the_text(tokenizer, knowing):
    known = knowing("<my>")
    assert known.encode("a photo of <my>, in snow") == [
        *tokenizer.encode("a photo of"), 49408, 49409, 49410, *tokenizer.encode(", in snow")]
    assert known.encode("a photo of a fox's den") == tokenizer.encode("a photo of a fox's den")
    assert known.words("a <my>") == [*tokenizer.words("a"), ("<my>", [49408, 49409, 49410])]


def test_tokens_of_words_are_shown(tokenizer, knowing):
    known = knowing("<my>", hat=1)
    ids = known.encode("a <my>, hat")
    assert "".join(known.pieces(ids)) == "a <my> , hat " and len(known.pieces(ids)) == len(ids) == 6
    assert known.decode(ids) == "a <my> , hat" and known.pad == tokenizer.pad
    assert known.pieces(tokenizer.encode("snow fox")) == tokenizer.pieces(tokenizer.encode("snow fox"))
    for outside in (-1, 49412):
        with pytest.raises(ValueError, match=rf"token id {outside} is outside the vocabulary; use 0\.\.49411"):
            known.decode([outside])


@pytest.mark.parametrize("seed", range(20))
def test_chunks_never_part_the_vectors_of_a_word(seed, tokenizer):
    """Random prompts of words with up to 75 vectors: nothing is lost, no chunk is too long or begins inside a word."""
    rng = random.Random(seed)
    counts = {"one": 1, "few": 5, "many": 40, "full": 75}
    known = InversionTokenizer(tokenizer, {word: torch.zeros(n, 1) for word, n in counts.items()})
    prompt = " ".join(rng.choices([*counts, "snow", ","], [2, 5, 2, 1, 60, 5], k=rng.randint(80, 250)))
    chunks = chunk(known, prompt)
    assert [token for tokens in chunks.tokens for token in tokens] == known.encode(prompt)
    assert all(len(tokens) <= 75 and not {tokens[0]} & known.inner for tokens in chunks.tokens)
    assert chunks.ids.shape == chunks.weights.shape == (len(chunks.tokens), 77)


@pytest.mark.parametrize(("before", "expected"), [
    ("snow " * 72, [75]), ("snow " * 73, [73, 3]), ("snow " * 75, [75, 3]),
    ("snow " * 70 + ", snow snow ", [73, 3]),           # AUTOMATIC1111 does not go back to the comma here
    ("snow " * 70 + ", snow snow snow snow ", [71, 7])])
def test_a_word_that_does_not_fit_begins_a_chunk(before, expected, knowing):
    assert [len(tokens) for tokens in chunk(knowing("<my>"), before + "<my>").tokens] == expected


def test_with_embedding_adds_words_one_by_one(tokenizer, vectors, text, tmp_path):
    torch.save({"<toy>": vectors}, tmp_path / "a.bin")
    save_file({"emb_params": vectors[:1].clone()}, tmp_path / "hat.safetensors")
    first, word = with_embedding(tokenizer, WIDTH, tmp_path / "a.bin")
    assert word == "<toy>"
    second, word = with_embedding(first, WIDTH, tmp_path / "hat.safetensors")
    assert word == "hat" and set(second.embeddings) == {"<toy>", "hat"} and set(first.embeddings) == {"<toy>"}
    third, word = with_embedding(second, WIDTH, tmp_path / "a.bin", "other")
    assert word == "other" and len(third.encode("<toy> hat other")) == 7
    expected = encode(text, first, ["a <toy>"])
    torch.testing.assert_close(encode(text, third, ["a <toy>"]), expected, rtol=0, atol=0)
    assert "".join(third.pieces(third.encode("other hat <toy>"))) == "other hat <toy> "


def test_without_embedding_forgets_words(tokenizer, text, knowing):
    known, plain = knowing("<my>", hat=2), encode(text, tokenizer, ["a <my> hat"])
    one = without_embedding(known, "<my>")
    assert set(one.embeddings) == {"hat"} and one.encode("a <my>") == tokenizer.encode("a <my>")
    for none in (without_embedding(known), without_embedding(one, "hat"), without_embedding(tokenizer)):
        assert type(none) is Tokenizer and torch.equal(encode(text, none, ["a <my> hat"]), plain)
    with pytest.raises(ValueError, match="the word 'cat' stands for no textual inversion; those are <my>, hat"):
        without_embedding(known, "cat")


def test_words_come_and_go_beside_a_glossary(vectors, tmp_path):
    torch.save({"<toy>": vectors}, tmp_path / "a.bin")
    glossary = Glossary({"狐狸": "fox"})
    one, _ = with_embedding(Tokenizer(glossary=glossary), WIDTH, tmp_path / "a.bin")
    two, _ = with_embedding(one, WIDTH, tmp_path / "a.bin", "hat")
    assert two.encode("狐狸") == Tokenizer().encode("fox")
    for known in (one, two, without_embedding(two, "hat"), without_embedding(two)):
        assert known.glossary is glossary


def test_words_that_cannot_be_are_refused(tokenizer, vectors, tmp_path):
    torch.save({"<toy>": vectors}, tmp_path / "a.bin")
    known, _ = with_embedding(tokenizer, WIDTH, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="the word '<TOY>' stands for a textual inversion already; give this one ano"):
        with_embedding(known, WIDTH, tmp_path / "a.bin", "<TOY>")
    for word in ("", " a"):
        with pytest.raises(ValueError, match="is empty or has space around it; try 'my-style'"):
            with_embedding(tokenizer, WIDTH, tmp_path / "a.bin", word)


REFUSED = {
    "SD 2": ({"emb_params": torch.ones(2, 1024)}, "holds vectors of width 1024, for Stable Diffusion 2; this model's "
                                                  "are 64 wide, as for a model of width 64"),
    "SD 1": ({"emb_params": torch.ones(2, 768)}, "of width 768, for Stable Diffusion 1; "),
    "XL": ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
           "is a textual inversion for Stable Diffusion XL: it has clip_"),
    "too many": ({"emb_params": torch.ones(76, 64)}, "holds 76 vectors, but a chunk of a prompt has 75 tokens"),
    "none": ({"emb_params": torch.ones(0, 64)}, "holds 0 vectors"),
    "not finite": ({"emb_params": torch.full((1, 64), torch.inf)}, "holds numbers in emb_params that are not finite"),
    "LoRA": ({"lora_unet_conv_in.lora_down.weight": torch.ones(4, 4, 3, 3)}, "is a LoRA, not a textual inversion: "),
    "two": ({"<a>": torch.ones(1, 64), "<b>": torch.ones(1, 64)}, "not a textual inversion: its tensors are <a>, <b>"),
    "a picture": ({"emb_params": torch.ones(1, 4, 8, 8)}, r"holds emb_params \[1, 4, 8, 8\], not the vectors \[n W\]"),
    "a pair": ({"string_to_param.a": torch.ones(1, 64), "string_to_param.b": torch.ones(1, 64)},
               r"holds string_to_param.a \[1, 64\], string_to_param.b \[1, 64\], not the vectors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_do_not_fit_are_refused(name, tokenizer, tmp_path):
    content, message = REFUSED[name]
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        with_embedding(tokenizer, WIDTH, tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


def test_a_hostile_pickle_is_not_executed(tmp_path):
    class Call:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'proof'}",)

    torch.save({"string_to_param": {"*": Call()}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a textual inversion"):
        read_embedding(tmp_path / "a.pt")
    assert not (tmp_path / "proof").exists()


def test_damaged_files_are_refused(vectors, tmp_path):
    path = Path(tmp_path, "a.pt")
    torch.save({"<toy>": vectors}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged|truncated"):
        read_embedding(path)
