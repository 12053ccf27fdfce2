"""The tokenizer, against transformers' CLIPTokenizer (the fast one, alone since transformers 5) and open_clip's."""

import html
import random
import string
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from clip_reference import clip_tokenizer

from ldm.text import Tokenizer

TEXTS = [
    "", " ", "a cat", "A Photo of an ASTRONAUT riding a horse on Mars!", "artstation, 8k, f/1.8, (masterpiece:1.2)",
    "it's they're I've I'm we'll he'd don't", "IT'S 'S 'quoted' ''s !'s rock'n'roll o'clock",
    "...!!! ?!, -- __x__ a_b #1 @you $5 100%", "1 12 1234567890 3.14 1st ½ ² Ⅷ ٣ 四",
    "café CAFÉ cafe\u0301 naïve Ångström Größe ẞ İstanbul ıI ŒUVRE çà", "a\u0338b =\u0338 \u0301 Å\u0323 \u0344",
    "ΣΊΣΥΦΟΣ ΑΣ ΣΑΣ. ὈΔΥΣΣΕΎΣ", "Привет, мир! Ёлка", "שלום עולם مرحبا बालक ไทย தமிழ்",
    "一只狐狸在雪地里，戴着红帽子。", "東京タワー ひらがな ｶﾀｶﾅ", "한국어 \u1112\u1161\u11ab",
    "🦊 🚀🚀 👩\u200d🚀 🇨🇳 ❤\ufe0f 👍🏽 ☕", "𝓕𝓪𝓷𝓬𝔂 𝟙𝟚 𐐀𐐨 \U0010ffff \ue000",
    "ﬁne ﬂow ﬃ", "ＦＵＬＬ ｗｉｄｔｈ １２３ ！", "“curly” ‘quotes’ ‘s it’s „low“ «guillemets» … – —",
    "&amp; &lt;b&gt; &eacute; &#39; &amp;amp; <b>bold</b> </w> a</w>", "<start_of_text> <end_of_text> <|endoftext |>",
    "<|endoftext|>", "<|startoftext|>a<|endoftext|>b", "<|ENDOFTEXT|>!! !<|EndOfText|>'s", "|><|startoftext|>'s",
    "<|endoftext|>\u0338", "tab\tnew\nline\r\n\x0b\x0c nbsp\u00a0x ideographic\u3000x nel\x85x ls\u2028x",
    "zwsp\u200bx zwnj\u200cx bom\ufeffx ctrl\x00\x01\x1b[31mred\x1c\x1d\x1e\x1f\x7f",
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "x" * 300, "ab" * 150,
]
LONG = "a fox in the snow, " * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    return clip_tokenizer(tmp_path_factory.mktemp("clip"))


def check_ids(parity, what: str, tokenizer: Tokenizer, reference, texts: list[str]) -> None:
    theirs = reference(texts, add_special_tokens=False, truncation=False).input_ids
    wrong = [(text, tokenizer.encode(text), ids) for text, ids in zip(texts, theirs, strict=True)
             if tokenizer.encode(text) != ids]
    print(*wrong[:1])                                   # shown where the test fails
    parity(f"token ids, {what}", "transformers", len(wrong), 0)


def test_tokenizer_equals_transformers_on_many_kinds_of_text(tokenizer: Tokenizer, reference, parity):
    check_ids(parity, "many kinds of text", tokenizer, reference, TEXTS + [a + b for a in TEXTS for b in TEXTS])


def test_tokenizer_equals_transformers_on_random_mixtures(tokenizer: Tokenizer, reference, parity):
    rng = random.Random(0)
    alphabet = "".join(TEXTS) + string.printable
    texts = ["".join(rng.choices(alphabet, k=30)) for _ in range(3000)]
    check_ids(parity, "random mixtures", tokenizer, reference, texts)


def test_tokenizer_equals_transformers_on_every_character_of_the_basic_plane(tokenizer: Tokenizer, reference, parity):
    # Unicode 3.2: what is a letter among newer characters depends on the version that each library knows
    known = [c for c in map(chr, range(0x10000)) if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs", "Co")]
    assert len(known) > 45_000
    texts = [" ".join(f"{c}x{c}!" for c in known[i : i + 20]) for i in range(0, len(known), 20)]
    check_ids(parity, "every character of the basic plane", tokenizer, reference, texts)


def test_tokenizer_pads_and_cuts_as_transformers(tokenizer: Tokenizer, reference, parity):
    texts = ["", "a cat", "一只狐狸", "a " * 75, LONG]
    with pytest.warns(UserWarning, match="longer than 75"):
        ids = tokenizer(texts)
    theirs = reference(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.dtype == torch.long and ids.shape == (5, 77)
    parity("token ids, padded and cut", "transformers", (ids != theirs).sum(), 0)


def test_tokenizer_equals_open_clip_on_ascii_without_html(tokenizer: Tokenizer, parity):
    from open_clip.tokenizer import SimpleTokenizer

    open_clip, rng = SimpleTokenizer(), random.Random(0)
    letters = string.ascii_letters * 4 + " " * 60 + "'" * 10 + string.punctuation + string.digits + "\t\n"
    texts = ["".join(rng.choices(letters, k=rng.randrange(60))) for _ in range(3000)]
    texts = [text for text in texts if html.unescape(text) == text]
    assert len(texts) > 2900
    wrong = [text for text in texts if tokenizer.encode(text) != open_clip.encode(text)]
    parity("token ids, ASCII without HTML", "open_clip_torch", len(wrong), 0)
    assert torch.equal(Tokenizer(pad=0)(texts[:50]), open_clip(texts[:50]))


def test_tokenizer_takes_one_string_as_a_batch_of_one(tokenizer: Tokenizer):
    ids = tokenizer("a cat")
    assert torch.equal(ids, tokenizer(["a cat"]))
    assert ids.tolist() == [[49406, 320, 2368] + [49407] * 74]
    assert tokenizer([]).shape == (0, 77)


def test_tokenizer_pads_with_the_given_id():
    assert Tokenizer(pad=0)("a cat")[0, :6].tolist() == [49406, 320, 2368, 49407, 0, 0]


def test_decode_equals_transformers(tokenizer: Tokenizer, reference):
    for text in [t for t in TEXTS if "</w>" not in t]:                  # their decoder takes a literal </w> for a space
        ids = tokenizer.encode(text)
        theirs = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == theirs, repr(text)


def test_decode_returns_the_text_of_a_row(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer("A cat, it's  42")[0]) == "a cat , it 's 4 2"


@pytest.mark.parametrize("bad", [-1, 49408])
def test_decode_refuses_an_id_outside_the_vocabulary(tokenizer: Tokenizer, bad: int):
    with pytest.raises(ValueError, match=f"token id {bad} is outside the vocabulary; use 0..49407"):
        tokenizer.decode([320, bad])


def test_words_come_with_their_ids(tokenizer: Tokenizer):
    words = tokenizer.words("It's a Zyxglorp42!")
    assert [word for word, _ in words] == ["it", "'s", "a", "zyxglorp", "4", "2", "!"]
    for word, ids in words:
        assert ids == tokenizer.encode(word)
    assert len(dict(words)["zyxglorp"]) > 1
    assert tokenizer.words("<|endoftext|>") == [("<|endoftext|>", [49407])]


def test_words_are_the_caller_s_to_change(tokenizer: Tokenizer):
    tokenizer.words("cat")[0][1].clear()
    assert tokenizer.encode("cat") == [2368]


def test_cut_returns_the_words_that_do_not_fit(tokenizer: Tokenizer):
    long_word = "zyxglorp"
    assert len(tokenizer.encode(long_word)) > 1
    assert tokenizer.cut("a " * 75) == tokenizer.cut("") == ""
    assert tokenizer.cut("a " * 75 + "Red fox") == "red fox"
    assert tokenizer.cut("a " * 74 + long_word + ", a") == f"{long_word} , a"       # fits in part: cut


def test_tokenizer_warns_with_the_words_that_it_cuts(tokenizer: Tokenizer):
    message = "a prompt of 77 tokens is longer than 75; shorten it, else these words are cut: red fox"
    with pytest.warns(UserWarning, match=message) as warned:
        ids = tokenizer("a " * 75 + "red fox")
    assert ids[0].tolist() == [49406] + [320] * 75 + [49407]
    assert warned[0].filename == __file__


def test_tokenizer_says_what_to_install_without_vocabulary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for spec in (None, SimpleNamespace(submodule_search_locations=[tmp_path])):
        monkeypatch.setattr("ldm.text.tokenizer.find_spec", lambda name, spec=spec: spec)
        tokenizer = Tokenizer()                         # reads nothing yet
        with pytest.raises(FileNotFoundError, match="pip install --force-reinstall open_clip_torch"):
            tokenizer.encode("a cat")


def test_vocabulary_loads_within_300_ms():
    times = []
    for _ in range(3):
        start = time.process_time()
        Tokenizer().encode("a cat")
        times.append(time.process_time() - start)
    assert min(times) < 0.3
