"""Textual inversions against diffusers, which reads the same file into transformers' tokenizer and text encoder."""

import warnings

import pytest
import torch
from clip_reference import clip_tokenizer, transformers_text
from relative_error import relative_error
from safetensors.torch import save_file

from ldm.plugins import with_embedding
from ldm.text import CLIPText, CLIPTextConfig, Tokenizer, encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")                     # of third-party modules at import
    from diffusers.loaders import TextualInversionLoaderMixin

LAYOUTS = {
    "diffusers": ("learned_embeds.safetensors", save_file, lambda v: {"<toy>": v}),
    "A1111": ("toy.pt", torch.save, lambda v: {"string_to_token": {"*": 265}, "string_to_param": {"*": v},
                                               "name": "toy"}),
}


class Loader(TextualInversionLoaderMixin):
    """What diffusers' pipelines inherit."""
    components, hf_device_map = {}, None


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_textual_inversion_equals_diffusers(layout, count, tmp_path, parity):
    """A word, said twice, of one vector and of several."""
    name, save, content = LAYOUTS[layout]
    save(content(torch.randn(count, 64, generator=torch.Generator().manual_seed(1))), tmp_path / name)
    torch.manual_seed(0)
    text = CLIPText(CLIPTextConfig(width=64, layers=2)).eval()
    tokenizer, _ = with_embedding(Tokenizer(), 64, tmp_path / name, "<toy>")
    loader, their_text, their_tokenizer = Loader(), transformers_text(text), clip_tokenizer(tmp_path)
    loader.load_textual_inversion(str(tmp_path / name), token="<toy>", tokenizer=their_tokenizer,
                                  text_encoder=their_text)
    prompt = "a photo of <toy> in the snow, <toy>"
    ids = their_tokenizer(loader.maybe_convert_prompt(prompt, their_tokenizer), padding="max_length",
                          return_tensors="pt").input_ids
    error = relative_error(encode(text, tokenizer, [prompt]), their_text(ids)[0])
    parity(f"textual inversion, {layout} layout", "diffusers", error, 1e-5)
