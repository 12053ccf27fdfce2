"""scripts/train_textual_inversion.py: a word is learned, and means here and in diffusers the same."""

import pytest
import torch
from character import diffusers_latents, diffusers_twin, fixed_loss, latents, losses
from relative_error import relative_error
from safetensors.torch import load_file

from ldm import Pipeline
from ldm.plugins import read_embedding
from ldm.training.data import ImageFolder
from ldm.training.finetune import Examples, batch_loss
from ldm.training.inversion import new_word

PROMPT = "3d render of a zorbl"


@pytest.fixture
def train(run_script, tiny_model, character):
    """train(out, *flags): train_textual_inversion.py on the character."""
    return lambda out, *flags: run_script("train_textual_inversion.py", "--ckpt", tiny_model, "--data", character,
                                          "--word", "zorbl", "--init-word", "purple frog", "--prompt", PROMPT,
                                          "--out", out, *flags)


def test_vectors_begin_as_words_and_alone_get_gradients(plain, character):
    words = new_word(plain.text, plain.tokenizer, "zorbl", "purple frog", 3)
    rows = plain.text.token_embedding.weight[plain.tokenizer.encode("purple frog purple")]
    assert torch.equal(words.vectors, rows)
    own = Examples.of(plain, ImageFolder(character, 64), [PROMPT])
    expected = batch_loss(plain, Examples(own.latents, [["3d render of a purple frog purple"]] * 4), 3, 0, 0)
    plain.tokenizer = words
    loss = batch_loss(plain, own, 3, 0, 0)
    torch.testing.assert_close(loss, expected)          # as yet the word is those words
    loss.backward()
    assert (words.vectors.grad.abs().amax(1) > 0).all()
    assert all(p.grad is None for network in plain.networks.values() for p in network.parameters())


def test_training_lowers_the_loss_and_the_file_gives_the_word(train, plain, character, tmp_path):
    assert train(tmp_path, "--steps", 60, "--every", 30, "--lr", 0.1).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"zorbl.safetensors", "state.pt", "losses.csv", "losses.png",
                                                          "samples.png"}
    before = fixed_loss(plain, character, "3d render of a purple frog")
    assert plain.load_embedding(tmp_path / "zorbl.safetensors") == "zorbl"
    assert fixed_loss(plain, character) < before and len(losses(tmp_path)) == 2
    word, vectors = read_embedding(tmp_path / "zorbl.safetensors")
    state = torch.load(tmp_path / "state.pt", weights_only=True)["weights"]
    assert word == "zorbl" and vectors.shape == (2, 64) and torch.equal(vectors, state["vectors"])


def test_training_resumes_bit_for_bit(train, interrupt, tmp_path):
    flags = ["--steps", 5, "--every", 2, "--samples", 1]
    assert train(tmp_path / "whole", *flags).returncode == 0
    interrupt(4)                                        # after the checkpoint of step 2, before that of step 4
    assert train(tmp_path / "broken", *flags).returncode == 130
    assert torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["step"] == 2
    assert train(tmp_path / "broken", *flags).returncode == 0
    for name in ("zorbl.safetensors", "losses.csv", "samples.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_word_gives_diffusers_the_same_latents(count, train, plain, tmp_path, parity):
    """Ten steps of DDIM, with guidance, through diffusers' own loader."""
    assert train(tmp_path, "--steps", 30, "--lr", 0.1, "--vectors", count, "--samples", 0).returncode == 0
    theirs = diffusers_twin(plain, tmp_path)
    theirs.load_textual_inversion(str(tmp_path / "zorbl.safetensors"))
    start = latents(plain, "3d render of a purple frog")
    plain.load_embedding(tmp_path / "zorbl.safetensors")
    ours = latents(plain, PROMPT)
    assert relative_error(start, ours) > 0.01
    parity("textual inversion trained here, latents after 10 steps", "diffusers",
           relative_error(ours, diffusers_latents(theirs, PROMPT)), 1e-3)


def test_a_lora_is_trained_on_a_learned_word(train, run_script, plain, tiny_model, character, tmp_path):
    assert train(tmp_path / "word", "--steps", 2, "--lr", 0.1, "--samples", 0).returncode == 0
    word, out = tmp_path / "word" / "zorbl.safetensors", tmp_path / "lora"
    done = run_script("train_lora.py", "--ckpt", tiny_model, "--data", character, "--prompt", PROMPT, "--out", out,
                      "--embedding", word, "--steps", 1, "--samples", 0)
    assert done.returncode == 0
    own = Examples.of(plain, ImageFolder(character, 64), [PROMPT])
    pieces = batch_loss(plain, own, 4, 0, 0).item()     # without the word
    plain.load_embedding(word)
    assert losses(out) == [pytest.approx(batch_loss(plain, own, 4, 0, 0).item(), rel=1e-5)]
    assert losses(out) != [pytest.approx(pieces, rel=1e-5)]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--prompt", "3d render of a frog"], "the caption '3d render of a frog' lacks the word 'zorbl'; put it in"),
    (["--word", "a/b"], "word 'a/b' cannot name a file"),
    (["--init-word", " "], "' ' has no word to begin with"),
    (["--vectors", 76], "76 vectors do not fit into the 75 tokens of a prompt"),
])
def test_mistakes_are_one_line_and_leave_nothing(train, tmp_path, arguments, message):
    done = train(tmp_path / "out", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always:.* was trained without parliament:UserWarning")
def test_a_small_vocabulary_warns_of_words_it_never_saw(run_script, character, tmp_path):
    """The bundled model, which has no rows for them."""
    done = run_script("train_textual_inversion.py", "--data", character, "--word", "zorbl", "--init-word",
                      "parliament", "--prompt", PROMPT, "--out", tmp_path, "--steps", 1, "--samples", 0, "--size", 64)
    assert done.returncode == 0 and "was trained without parliament" in done.stderr
    assert Pipeline.load().load_embedding(tmp_path / "zorbl.safetensors") == "zorbl"
    assert not load_file(tmp_path / "zorbl.safetensors")["zorbl"].isnan().any()


@pytest.mark.parametrize(("flags", "what"), [
    (["--word", "blob", "--prompt", "a blob"], "captions and word"), (["--init-word", "red disc"], "init_word")])
def test_a_folder_of_another_word_is_refused(train, tmp_path, flags, what):
    short = ["--steps", 1, "--samples", 0]
    assert train(tmp_path, *short).returncode == 0
    done = train(tmp_path, *short, *flags)
    assert done.returncode == 2 and f"state.pt is of a run that differs in {what}; give the same" in done.stderr
    assert not (tmp_path / "blob.safetensors").exists()
