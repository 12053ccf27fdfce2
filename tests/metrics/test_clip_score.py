"""CLIP score: against open_clip's own forward pass; nothing is downloaded."""

import open_clip
import pytest
import torch
from PIL import Image

from ldm.metrics import ClipScorer

COLOURS = ("red", "green", "blue", "white", "black", "orange")
PROMPTS = ("a red square", "a fox", "blue", "", "a very long walk", "two cats")


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (40 + 9 * i, 50), colour) for i, colour in enumerate(COLOURS)]


def test_clip_score_equals_open_clip(tiny_clip, parity):
    name, file = tiny_clip
    model, _, preprocess = open_clip.create_model_and_transforms(name, str(file))
    images = torch.stack([preprocess(picture) for picture in pictures()])
    with torch.no_grad():
        seen, read, _ = model.eval()(images, open_clip.get_tokenizer(name)(list(PROMPTS)))
    every = seen.double() @ read.double().T             # both have length 1
    assert every.min() < -0.01 and every.max() > 0.01   # so that both ends of max(cos, 0) are seen
    scorer = ClipScorer(name, file)
    found = torch.stack([scorer(pictures(), [prompt] * len(COLOURS)) for prompt in PROMPTS], dim=1)
    parity("CLIP score, absolute", "open_clip_torch", (found - 2.5 * every.clamp(min=0)).abs().max(), 1e-5)


def test_clip_score_takes_any_picture_and_a_prefix(tiny_clip):
    clear = Image.new("RGBA", (30, 30), (255, 0, 0, 0))                         # transparency is white
    white = Image.new("RGB", (30, 30), "white")
    scorer = ClipScorer(*tiny_clip, prefix="A photo depicts ")
    assert scorer([clear], ["a fox"]) == scorer([white], ["a fox"])
    assert scorer([white], ["a fox"]) == ClipScorer(*tiny_clip)([white], ["A photo depicts a fox"])


def test_clip_score_says_what_it_does_not_read(tiny_clip):
    scorer = ClipScorer(*tiny_clip)
    scorer(pictures()[:1], ["fox " * 75])               # as many as fit
    with pytest.warns(UserWarning, match="CLIP reads only the first 75 tokens of 'fox fox"):
        scorer(pictures()[:1], ["fox " * 76])


def test_clip_score_refuses_unequal_numbers(tiny_clip):
    with pytest.raises(ValueError, match="6 pictures do not go with 1 prompts; give one for each"):
        ClipScorer(*tiny_clip)(pictures(), ["a fox"])


@pytest.mark.parametrize(("model", "message"), [
    ("ViT-Z-32", "ViT-Z-32 is no model of open_clip; try ViT-B-32"),
    ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "is no model of open_clip"),
    ("roberta-ViT-B-32", "has a tokenizer that open_clip would download"),
    ("ViT-B-16-SigLIP", "has a tokenizer that open_clip would download"),
])
def test_clip_score_refuses_models_that_would_be_downloaded(tiny_clip, model, message):
    with pytest.raises(ValueError, match=message):
        ClipScorer(model, tiny_clip[1])


def test_clip_score_takes_no_tag_for_a_file(tiny_clip):
    """open_clip would download "openai" or "laion2b_s34b_b79k"."""
    with pytest.raises(ValueError, match="openai is no file; give the weights of ViT-B-32, nothing is downloaded"):
        ClipScorer("ViT-B-32", "openai")


def test_clip_score_refuses_weights_of_another_model(tiny_clip, tmp_path):
    state = torch.load(tiny_clip[1], weights_only=True)
    torch.save({name: tensor for name, tensor in state.items() if "resblocks" not in name}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for file in ("other.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{file} does not hold the weights of {tiny_clip[0]}"):
            ClipScorer(tiny_clip[0], tmp_path / file)
