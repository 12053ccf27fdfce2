"""Opening and filling whole files of the tiny model."""

import mmap
import struct
import weakref

import pytest
import torch
from safetensors.torch import save_file

import ldm.weights.entries as entries_module
from ldm.weights import CheckpointError, open_checkpoint, save_checkpoint
from ldm.weights.entries import Reader

TEXT = "cond_stage_model.transformer.text_model."
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_round_trip_is_bit_identical(dtype, states, models, tmp_path, load, assert_same):
    states = {part: ({k: v.to(dtype) for k, v in state.items()}, rows) for part, (state, rows) in states.items()}
    save_checkpoint(tmp_path / "m.safetensors", states, {"heads": 8, "prediction": "v"})
    source = open_checkpoint(tmp_path / "m.safetensors")
    assert (source.family, source.layout, source.vocabulary) == ("sd1", "compvis", None)
    assert source.metadata == {"heads": 8, "prediction": "v"}
    for part, model in load(source, dtype).items():
        assert_same(model, models[part])
        assert model.cfg == models[part].cfg
        assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("wrap", [lambda t: {"state_dict": t, "global_step": 3, "callbacks": {}}, dict],
                         ids=["state_dict", "bare"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_files_fill_the_models(wrap, zipped, dtype, official, models, tmp_path, load, assert_same):
    torch.save(wrap(official), tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    for part, model in load(open_checkpoint(tmp_path / "m.ckpt"), dtype).items():
        assert_same(model, models[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fill_makes_parameters_that_can_be_trained(dtype, official, tmp_path, load):
    path = tmp_path / "m.safetensors"
    save_file(official, path)
    before = path.read_bytes()
    vae = load(open_checkpoint(path), dtype)["vae"]
    assert all(p.requires_grad for p in vae.parameters())
    with torch.no_grad():
        vae.encoder.conv_in.weight.zero_()
    assert path.read_bytes() == before              # mapped copy on write


KINDS = {"linear": (128, 64), "conv3": (64, 64, 3, 3), "conv1": (128, 64, 1, 1), "bias": (64,), "wide": (300, 128)}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A file with tensors of several kinds, as (its tensors, their entries, names that are mapped so far)."""
    rng = torch.Generator().manual_seed(0)
    tensors = {f"encoder.{name}": torch.randn(shape, generator=rng) for name, shape in KINDS.items()}
    save_file(tensors | {"decoder.conv_in.weight": torch.zeros(1)}, tmp_path / "m.safetensors")
    entries, mapped = open_checkpoint(tmp_path / "m.safetensors", expect="vae").parts["vae"].entries, []
    names, plain = {entry.offset: name for name, entry in entries.items()}, Reader.map
    monkeypatch.setattr(Reader, "map", lambda self, entry, *args: (mapped.append(names[entry.offset]),
                                                                  plain(self, entry, *args))[1])
    return tensors, entries, mapped


@pytest.mark.parametrize(("dtype", "layout", "expected"), [
    (torch.float32, torch.contiguous_format, {"linear", "conv3", "conv1", "wide"}),
    (torch.float32, torch.channels_last, {"linear", "conv1", "wide"}),
    (torch.bfloat16, torch.channels_last, set()),
])
def test_reader_maps_only_what_lies_as_wanted(dtype, layout, expected, opened):
    tensors, entries, mapped = opened
    reader = Reader()
    for name, tensor in tensors.items():
        loaded = reader.load(entries[name], dtype, layout=layout)
        assert loaded.dtype == dtype and torch.equal(loaded, tensor.to(dtype)), name
        if tensor.ndim == 4:
            assert loaded.is_contiguous(memory_format=layout)
            assert loaded.to(memory_format=layout) is loaded    # laid out once, no second copy
    assert set(mapped) == {f"encoder.{name}" for name in expected}


def test_mapped_windows_are_given_back_one_by_one(opened, monkeypatch):
    tensors, entries, mapped = opened
    maps, plain = [], mmap.mmap
    def spy(*args, **kwargs):
        made = plain(*args, **kwargs)
        maps.append(weakref.ref(made))
        return made
    monkeypatch.setattr(mmap, "mmap", spy)
    monkeypatch.setattr(entries_module, "WINDOW", 2**16 * 3)
    reader = Reader()
    loaded = {name: reader.load(entries[name], torch.float32) for name in tensors}
    assert len(maps) == 2 and len(mapped) == 4          # 370 kB in windows of 197 kB, tensors across the edge too
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    del reader
    last = max(mapped, key=lambda name: entries[name].offset)
    for name in mapped:
        if entries[name].offset >= 2**16 * 3:
            del loaded[name]
    assert last not in loaded and [ref() is None for ref in maps].count(True) == 1


def test_unaligned_file_is_read(official, models, tmp_path, load, assert_same):
    save_file(official, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = data[8 : 8 + length] + b" ", data[8 + length :]
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length + 1) + header + numbers)
    assert_same(load(open_checkpoint(tmp_path / "m.safetensors"))["unet"], models["unet"])


def test_reader_copies_with_strides_and_shared_storages(tmp_path):
    base = torch.arange(24.0)
    tensors = {"encoder.conv_in.weight": base.view(4, 6).T, "encoder.tail": base[18:],
               "encoder.one": base[:1].expand(5)}
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
        entries = open_checkpoint(tmp_path / "m.pt", expect="vae").parts["vae"].entries
        reader = Reader()
        for name, tensor in tensors.items():
            assert torch.equal(reader.load(entries[name], torch.float32), tensor), name


def test_ema_twins_are_taken_unless_refused(official, models, tmp_path, load, assert_same):
    unet = {k: v for k, v in official.items() if k.startswith("model.")}
    twins = {"model_ema." + k.removeprefix("model.").replace(".", ""): v + 1 for k, v in unet.items()}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    save_file(official | twins | counters, tmp_path / "m.safetensors")
    assert_same(load(open_checkpoint(tmp_path / "m.safetensors", ema=False))["unet"], models["unet"])
    averaged = load(open_checkpoint(tmp_path / "m.safetensors"))
    assert_same(averaged["vae"], models["vae"])
    for name, tensor in averaged["unet"].state_dict().items():
        assert torch.equal(tensor, models["unet"].state_dict()[name] + 1), name

    twins.popitem()
    save_file(official | twins, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="has EMA twins, but 1 are missing .*ema=False"):
        open_checkpoint(tmp_path / "m.safetensors")
    assert_same(load(open_checkpoint(tmp_path / "m.safetensors", ema=False))["unet"], models["unet"])


def test_old_merges_without_text_model_load(official, models, tmp_path, load, assert_same):
    save_file({k.replace(".text_model.", "."): v for k, v in official.items()}, tmp_path / "m.safetensors")
    assert_same(load(open_checkpoint(tmp_path / "m.safetensors"))["text"], models["text"])


def test_linear_layers_fill_1x1_convolutions(official, models, tmp_path, load, assert_same):
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    assert official[name].ndim == 4
    save_file(official | {name: official[name].flatten(1)}, tmp_path / "m.safetensors")
    assert_same(load(open_checkpoint(tmp_path / "m.safetensors"))["vae"], models["vae"])


def test_known_extras_are_ignored(official, models, tmp_path, load, assert_same):
    extras = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_recip_alphas_cumprod",
              "log_one_minus_alphas_cumprod", "posterior_variance", "lvlb_weights", "model_ema.decay",
              f"{TEXT}embeddings.position_ids", "cond_stage_model.logit_scale", "first_stage_model.loss.logvar",
              "low_scale_model.betas", "low_scale_model.sqrt_one_minus_alphas_cumprod"]
    save_file(official | {name: torch.zeros(2, dtype=torch.int64) for name in extras}, tmp_path / "m.safetensors")
    source = open_checkpoint(tmp_path / "m.safetensors")
    assert sorted(source.ignored) == sorted(extras)
    for part, model in load(source).items():
        assert_same(model, models[part])


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_vae_files_open_as_a_vae(prefix, official, models, tmp_path, load, assert_same):
    start = "first_stage_model."
    vae = {prefix + k.removeprefix(start): v for k, v in official.items() if k.startswith(start)}
    save_file(vae | {"loss.logvar": torch.zeros(1)}, tmp_path / "vae.safetensors")
    source = open_checkpoint(tmp_path / "vae.safetensors", expect="vae")
    assert source.family == "vae" and list(source.parts) == ["vae"]
    assert_same(load(source)["vae"], models["vae"])
    with pytest.raises(CheckpointError, match="is a VAE alone, .*give a full Stable Diffusion 1 or 2 model"):
        open_checkpoint(tmp_path / "vae.safetensors")


def test_full_model_opens_as_a_vae(official, models, tmp_path, load, assert_same):
    save_file(official, tmp_path / "m.safetensors")
    source = open_checkpoint(tmp_path / "m.safetensors", expect="vae")
    assert list(source.parts) == ["vae"]
    assert_same(load(source)["vae"], models["vae"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_sparse_vocabulary_is_expanded(dtype, states, models, tmp_path, load):
    vocabulary = torch.tensor([0, 5, 17, 95])
    save_checkpoint(tmp_path / "m.safetensors", states, vocabulary=vocabulary)
    source = open_checkpoint(tmp_path / "m.safetensors")
    assert source.vocabulary is not None and source.vocabulary.tolist() == [0, 5, 17, 95]
    embedding = load(source, dtype)["text"].token_embedding.weight
    assert embedding.shape == (49408, 64) and embedding.dtype == dtype
    assert torch.equal(embedding[vocabulary], models["text"].token_embedding.weight[vocabulary].to(dtype))
    absent = torch.ones(49408, dtype=torch.bool)
    absent[vocabulary] = False
    assert embedding[absent].count_nonzero() == 0


@pytest.mark.parametrize("rows", [[0, 1, 1], [0, 1, 49408], [-1, 0, 1], [0, 1]])
def test_row_sparse_vocabulary_refuses_wrong_rows(rows, official, tmp_path):
    name = f"{TEXT}embeddings.token_embedding"
    sparse = {f"{name}.weight": official[f"{name}.weight"][:3], f"{name}.rows": torch.tensor(rows, dtype=torch.int32)}
    save_file(official | sparse, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="token_embedding.rows"):
        open_checkpoint(tmp_path / "m.safetensors")


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(name)}


@pytest.mark.parametrize(("change", "message"), [
    (without("model.diffusion_model.time_embed.0"), r"2 missing \(time_embed.0.weight, time_embed.0.bias\);"),
    (without(f"{TEXT}final_layer_norm.bias"), r"does not fit the text, tensors: 1 missing \(final_layer_norm.bias\);"),
    (without("model.diffusion_model.middle_block.1.proj_in.weight"), "lacks middle_block.1.proj_in.weight of the unet"),
    (without("first_stage_model."), "a UNet and a text encoder alone"),
    (lambda t: t | {"model.diffusion_model.extra.weight": torch.zeros(1)}, r"1 unexpected \(extra.weight\)"),
    (lambda t: t | {"something.else": torch.zeros(1)}, r"1 tensors of no part \(something.else\)"),
    (lambda t: t | {f"model.diffusion_model.x{i:02}": torch.zeros(1) for i in range(12)},
     r"12 unexpected \(x00, .*x09, …\)"),
    (lambda t: t | {"first_stage_model.quant_conv.bias": torch.zeros(7)},
     r"1 of the wrong shape \(quant_conv.bias is \[7\], not \[8\]"),
    (lambda t: t | {FIRST: t[FIRST].to(torch.int8)}, r"1 neither float32.* \(input_blocks.0.0.weight is int8"),
    (lambda t: t | {FIRST: t[FIRST].to(torch.float8_e4m3fn)}, "input_blocks.0.0.weight is float8_e4m3fn"),
    (lambda t: t | {FIRST: t[FIRST].double()}, "input_blocks.0.0.weight is float64"),
])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_tensors_that_do_not_fit_are_named(suffix, change, message, official, tmp_path, load, monkeypatch):
    path = tmp_path / f"m.{suffix}"
    save_file(change(official), path) if suffix == "safetensors" else torch.save(change(official), path)
    for method in ("read", "map"):                  # the header alone tells
        monkeypatch.setattr(Reader, method, lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(CheckpointError, match=message) as error:
        load(open_checkpoint(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
