"""The text encoder's names, against transformers' on the meta device."""

import pytest
import torch

from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import config_from, rows

CONFIGS = [CLIPTextConfig(), CLIPTextConfig(vocab=500, length=20, width=128, layers=1),
           CLIPTextConfig(width=1024, layers=23), CLIPTextConfig(width=1024, layers=23, open_clip=True)]


def official_shapes(cfg: CLIPTextConfig) -> dict[str, tuple[int, ...]]:
    """Our shapes by their CompVis names."""
    with torch.device("meta"):
        state = CLIPText(cfg).state_dict()
    compvis = {ours: theirs for ours, theirs, _ in rows(cfg)}
    named = ((*name.rpartition("."), tensor) for name, tensor in state.items())
    return {f"{compvis[module]}.{parameter}": tuple(tensor.shape) for module, _, parameter, tensor in named}


@pytest.mark.parametrize("cfg", [CONFIGS[0], CONFIGS[-1]])
def test_rows_name_every_module_with_weights_once(cfg: CLIPTextConfig):
    with torch.device("meta"):
        modules = {name.rpartition(".")[0] for name in CLIPText(cfg).state_dict()}
    for column in zip(*rows(cfg), strict=True):
        assert len(set(column)) == len(column) == len(modules)
    assert {ours for ours, _, _ in rows(cfg)} == modules


def test_names_and_shapes_are_those_of_transformers():
    from transformers import CLIPTextConfig as Config
    from transformers import CLIPTextModel

    with torch.device("meta"):
        state = CLIPTextModel(Config(hidden_size=768, intermediate_size=3072, num_attention_heads=12)).state_dict()
    theirs = {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in state.items()}
    theirs.pop("embeddings.position_ids", None)         # a buffer, in older releases
    assert official_shapes(CLIPTextConfig()) == theirs
    assert len(theirs) == 196


def test_diffusers_names_are_the_compvis_names_below_text_model():
    assert all(diffusers == f"text_model.{compvis}" for _, compvis, diffusers in rows(CLIPTextConfig()))


@pytest.mark.parametrize("cfg", CONFIGS)
def test_config_from_reads_the_shapes_that_rows_name(cfg: CLIPTextConfig):
    assert config_from(official_shapes(cfg)) == cfg


def test_names_of_transformers_do_not_tell_open_clip():
    shapes = official_shapes(CLIPTextConfig(width=1024, layers=23))
    assert config_from(shapes, open_clip=True) == CLIPTextConfig(width=1024, layers=23, open_clip=True)


@pytest.mark.parametrize(("cfg", "name"), [(CONFIGS[1], "embeddings.position_embedding.weight"),
                                           (CONFIGS[-1], "token_embedding.weight")])
def test_config_from_misses_an_embedding(cfg: CLIPTextConfig, name: str):
    shapes = official_shapes(cfg)
    del shapes[name]
    with pytest.raises(KeyError, match=name):
        config_from(shapes)
