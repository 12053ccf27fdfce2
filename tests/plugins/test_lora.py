"""LoRAs on the tiny model: what they add to the weights, and that nothing of it stays."""

import random
from pathlib import Path

import pytest
import torch
from lora_files import LAYOUTS, layers, outputs, same, weights, write_lora

from ldm import Pipeline
from ldm.plugins import LoRAs
from ldm.plugins.layouts import sort_keys, targets
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig


@pytest.fixture(params=["auto", "plain"])
def pipe(request: pytest.FixtureRequest, tiny_model: Path) -> Pipeline:
    """The tiny model with packed layers where there are any, and without."""
    return Pipeline.load(tiny_model, "cpu", "float32", kernels=request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_weights_are_the_formula_in_every_layout(layout, pipe, load, everywhere, tmp_path):
    exact = {layer.module: layer.module.weight.double() for layer in everywhere}
    file = write_lora(tmp_path / "fox.safetensors", everywhere, layout)
    lora = load(file.path, 0.7)
    assert (sorted(lora.matched), lora.unmatched) == (sorted(file.keys), [])
    complete = {"comfy": "unet", "old diffusers": "attn"}.get(layout)
    assert complete or len(file.deltas) == len(everywhere)
    for layer in everywhere:
        expected = exact[layer.module] + 0.7 * file.deltas.get(layer.module, 0)
        torch.testing.assert_close(layer.module.weight.double(), expected, rtol=0, atol=1e-6)


def test_alpha_over_rank_scales(load, everywhere, tmp_path):
    """And without alpha, or with 0, the scale is 1."""
    chosen = everywhere[:3]
    exact = {layer.module: layer.module.weight.double() for layer in chosen}
    for alpha, scale in ((None, 1), (0, 1), (1, 0.25), (8, 2)):
        file = write_lora(tmp_path / f"{alpha}.safetensors", chosen, alpha=alpha, rank=4)
        changes = load(file.path, 0.0).changes
        assert all(change.scale == scale for change in changes.values()) and len(changes) == 3
        if alpha != 0:
            for layer in chosen:
                delta = changes[layer.module].delta(layer.shape)
                torch.testing.assert_close(delta.double(), file.deltas[layer.module], rtol=0, atol=1e-5)
    assert all(torch.equal(layer.module.weight.double(), exact[layer.module]) for layer in chosen)      # weight 0


@pytest.mark.parametrize("seed", range(5))
def test_unloading_in_any_order_restores_every_bit(seed, pipe, tiny_model, everywhere, tmp_path):
    """Random layers, ranks, layouts, weights, merged or beside; and what stays is as if the rest had never been."""
    rng, loras, exact = random.Random(seed), LoRAs(), weights(pipe)
    before = outputs(pipe)
    for i in range(rng.randint(2, 4)):
        layout = rng.choice(list(LAYOUTS))
        possible = [layer for layer in everywhere if LAYOUTS[layout](layer)]
        file = write_lora(tmp_path / f"{i}.safetensors", rng.sample(possible, rng.randint(2, len(possible))), layout,
                          rank=rng.choice([1, 2, 3, 8, 16]), seed=rng.randrange(100))
        loras.load(pipe.unet, pipe.text, file.path, rng.uniform(-2, 2), merge=rng.random() < 0.7)
    assert not all(map(torch.equal, outputs(pipe), before))
    other, alone = Pipeline.load(tiny_model, "cpu", "float32", kernels="plain"), LoRAs()
    for name in rng.sample(list(loras.loaded), len(loras.loaded)):
        loras.unload(name)
        for rest in loras.loaded.values():
            alone.load(other.unet, other.text, tmp_path / f"{rest.name}.safetensors", rest.weight, rest.merged)
        assert same(weights(pipe), weights(other))
        alone.unload()
    assert same(weights(pipe), exact) and all(map(torch.equal, outputs(pipe), before))
    assert not loras.originals and not loras.hooks
    assert not any(module._forward_hooks for network in (pipe.unet, pipe.text) for module in network.modules())


def test_several_loras_add_up(pipe, everywhere, tmp_path):
    loras, chosen = LoRAs(), everywhere[::3]
    exact = {layer.module: layer.module.weight.double() for layer in chosen}
    files = [write_lora(tmp_path / f"{i}.safetensors", chosen, layout, seed=i)
             for i, layout in enumerate(("kohya", "peft"))]
    for file, weight in zip(files, (0.5, -1.5), strict=True):
        loras.load(pipe.unet, pipe.text, file.path, weight)
    for layer in chosen:
        expected = exact[layer.module] + 0.5 * files[0].deltas[layer.module] - 1.5 * files[1].deltas[layer.module]
        torch.testing.assert_close(layer.module.weight.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_beside_computes_what_merging_does_and_leaves_the_weights(alpha, pipe, everywhere, tmp_path):
    """In every layer, those that enlarge too."""
    file, loras, before = write_lora(tmp_path / "fox.safetensors", everywhere, alpha=alpha), LoRAs(), outputs(pipe)
    loras.load(pipe.unet, pipe.text, file.path, 0.6)
    merged = outputs(pipe)
    loras.unload()
    exact = weights(pipe)
    loras.load(pipe.unet, pipe.text, file.path, 0.6, merge=False)
    assert same(weights(pipe), exact)
    for kept, expected, plain in zip(outputs(pipe), merged, before, strict=True):
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
        assert (expected - plain).abs().max() > 0.1 * plain.abs().max()
    loras.unload()
    assert all(map(torch.equal, outputs(pipe), before))


@pytest.mark.parametrize("ending", [
    "conv_in", "conv_out", "res.0.conv1", "res.0.skip", "mid.res1.time", "time.linear1", "downsample.conv",
    "upsample.conv", "proj_in", "self_attn.q", "cross_attn.k", "ff.proj", "attn.out", "mlp.fc2"])
def test_beside_computes_what_merging_does_in_each_kind_of_layer(ending, pipe, everywhere, tmp_path):
    """One at a time, so that none hides behind the others."""
    layer = next(layer for layer in everywhere if layer.ours.endswith(ending))
    file, loras, found = write_lora(tmp_path / "fox.safetensors", [layer]), LoRAs(), []
    plain = outputs(pipe)[layer.part == "text"]
    for merge in (True, False):
        loras.load(pipe.unet, pipe.text, file.path, merge=merge)
        found.append(outputs(pipe)[layer.part == "text"])
        loras.unload()
    torch.testing.assert_close(*found, rtol=0, atol=1e-5 * plain.abs().max().item())
    assert (found[0] - plain).abs().max() > 1e-3 * plain.abs().max()


def test_bfloat16_weights_are_the_rounded_sum_and_come_back(tiny_model, tmp_path):
    pipe, loras = Pipeline.load(tiny_model, "cpu", "bfloat16"), LoRAs()
    everywhere, exact = layers(pipe.unet, pipe.text), weights(pipe)
    dense = {layer.module: layer.module.weight.double() for layer in everywhere}
    file = write_lora(tmp_path / "fox.safetensors", everywhere)
    loras.load(pipe.unet, pipe.text, file.path, 0.7)
    for layer in everywhere:
        weight, expected = layer.module.weight, dense[layer.module] + 0.7 * file.deltas[layer.module]
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight.double(), expected, rtol=2**-8, atol=1e-6)        # half a step, and a bit
    loras.unload()
    assert same(weights(pipe), exact)


def test_unloading_follows_a_change_of_dtype(pipe, fox):
    loras, exact = LoRAs(), weights(pipe)
    loras.load(pipe.unet, pipe.text, fox.path)
    pipe.unet.to(torch.bfloat16)
    loras.unload()
    for name, weight in weights(pipe).items():
        dtype = torch.bfloat16 if name.startswith("unet") else torch.float32
        assert weight.dtype == dtype and torch.equal(weight, exact[name].to(dtype))


def test_weights_keep_their_memory_layout_and_need_of_gradients(tiny_model, fox):
    pipe, loras = Pipeline.load(tiny_model, "cpu", "float32", kernels="plain"), LoRAs()
    told = [(p.stride(), p.requires_grad) for p in pipe.unet.parameters()]
    loras.load(pipe.unet, pipe.text, fox.path)
    assert [p.stride() for p in pipe.unet.parameters()] == [stride for stride, _ in told]
    loras.unload()
    assert [(p.stride(), p.requires_grad) for p in pipe.unet.parameters()] == told


def test_names_and_weights_are_checked(pipe, fox):
    loras = LoRAs()
    for weight in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not a finite number; try 1"):
            loras.load(pipe.unet, pipe.text, fox.path, weight)
    loras.unload()                                      # nothing to do
    loras.load(pipe.unet, pipe.text, fox.path, 0.5)
    with pytest.raises(ValueError, match="LoRA 'fox' is loaded already, by weight 0.5; unload it first"):
        loras.load(pipe.unet, pipe.text, fox.path)
    with pytest.raises(ValueError, match="LoRA 'cat' is not loaded; loaded are fox"):
        loras.unload("cat")


FAMILIES = {"sd1": (UNetConfig(), CLIPTextConfig(), 72),
            "sd2": (UNetConfig(linear_proj=True, head_channels=64, context_width=1024),
                    CLIPTextConfig(width=1024, layers=23, open_clip=True), 138)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_a_name_of_its_own_in_every_layout(family):
    """Of full-size models.  kohya-ss/sd-scripts trains 192 layers of the UNet's transformers, 6 a text layer."""
    unet_config, text_config, in_text = FAMILIES[family]
    with torch.device("meta"):
        unet, text = UNet(unet_config), CLIPText(text_config)
    known, everywhere = targets(unet, text), layers(unet, text)
    for name, layout in LAYOUTS.items():
        named = {layout(layer): layer for layer in everywhere if layout(layer)}
        for names, layer in named.items():
            found, unmatched = sort_keys(names, known)
            assert not unmatched and list(found.values()) == [dict(zip(("down", "up"), names, strict=True))], name
            assert [(t.part, t.name) for t in found] == [(layer.part, layer.ours)]
    trained = [layer.part for layer in everywhere if layer.part == "text" or "attentions" in layer.diffusers]
    assert (trained.count("unet"), trained.count("text")) == (192, in_text)
