"""Files that are no models: each a CheckpointError that says what, where and what to do."""

import json
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from ldm.weights import CheckpointError, open_checkpoint
from ldm.weights.entries import Reader

PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n"


@pytest.fixture(autouse=True)
def no_tensor_is_read(monkeypatch: pytest.MonkeyPatch):
    for method in ("read", "map"):
        monkeypatch.setattr(Reader, method, lambda *_: pytest.fail("a tensor was read"))


def fails(path, message: str, **options) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path, **options)
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty; download or copy it again"),
    (PAGE, "is a web page, not the weights; download the file itself"),
    (POINTER, "is a git-LFS pointer, not the weights; run `git lfs pull`"),
    (b"GGUF\x03\0\0\0\0\0\0\0", "is a GGUF file, which is not supported; take the .safetensors"),
    (b"hello", r"begins with b'hello'; give a .safetensors file"),
    (b"\x80", "is truncated or damaged: its pickle cannot be read"),
    (pickle.dumps({"state_dict": {}}), "is a pickle, but none of torch.save; give a"),
])
def test_content_that_is_no_model(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    fails(tmp_path / name, message)


def test_missing_file_names_near_matches(tmp_path):
    (tmp_path / "model-v1.ckpt").touch()
    fails(tmp_path / "modle-v1.ckpt", "there is no file .*modle-v1.ckpt; near it: model-v1.ckpt")
    fails(tmp_path / "no" / "model.ckpt", "and no folder .*no; check the path")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty" / "model.ckpt", "empty holds no model files, so check the path")


def test_folder_that_is_no_model(tmp_path):
    fails(tmp_path, "is no model; a model has unet/, vae/ and text_encoder/")
    (tmp_path / "sd.safetensors").touch()
    fails(tmp_path, "is no model; give one of its files: sd.safetensors")


def test_folder_with_a_damaged_config(tmp_path, official):
    (tmp_path / "vae").mkdir()
    save_file({"encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "vae" / "config.json").write_text("{")
    fails(tmp_path, "vae/config.json is damaged")


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.999])
def test_truncated_safetensors(kept, official, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(official, path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(kept * len(data))])
    fails(path, "truncated|begins with")
    if kept != 4:
        fails(path, "truncated")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [100, 0.5, 0.999])
def test_truncated_torch_files(kept, zipped, official, tmp_path):
    path = tmp_path / "m.ckpt"
    torch.save(official, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(kept * len(data))])
    fails(path, "truncated or damaged")


@pytest.mark.parametrize("header", [
    b"{", b"[1]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
    b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
    b'{"__metadata__": {"ldm": "{"}}', b'{"__metadata__": {"ldm": "3"}}',
])
def test_damaged_safetensors_header(header, tmp_path):
    padded = header + b" "
    (tmp_path / "m.safetensors").write_bytes(len(padded).to_bytes(8, "little") + padded + b"\0" * 64)
    fails(tmp_path / "m.safetensors", "damaged|begins with")


def test_zip_archives_that_are_no_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    fails(tmp_path / "photos.zip", "is a zip archive, but none of torch.save")
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    fails(tmp_path / "m.ckpt", "is a compressed archive; unpack it")
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/byteorder", "big")
    fails(tmp_path / "m.ckpt", "is big-endian")


def test_zip_without_a_storage(official, tmp_path):
    torch.save(official, tmp_path / "whole.ckpt")
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as whole, zipfile.ZipFile(tmp_path / "m.ckpt", "w") as part:
        for name in whole.namelist():
            if not name.endswith("data/3"):
                part.writestr(name, whole.read(name))
    fails(tmp_path / "m.ckpt", "is truncated or damaged: the numbers of .* are not in it")


def test_metadata_of_a_folder_says_what_shapes_do_not(tmp_path):
    for name, config in {"unet": {"attention_head_dim": 4, "norm_num_groups": 16},
                         "vae": {"scaling_factor": 0.13, "norm_num_groups": 8}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    save_file({"encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    source = open_checkpoint(tmp_path, expect="vae")
    assert source.metadata == {"heads": 4, "groups": 16, "vae_groups": 8, "prediction": "v", "scale_factor": 0.13}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damaged_bytes_give_a_checkpoint_error_or_nothing(kind, tmp_path):
    """Any byte may be wrong: no other exception, and no crash."""
    path, rng = tmp_path / "m", random.Random(0)
    tensors = {"encoder.conv_in.weight": torch.zeros(4, 3, 1, 1), "decoder.conv_in.weight": torch.zeros(2)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    good, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 2, 4))):
            damaged[rng.randrange(len(good))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            open_checkpoint(path, expect="vae")
        except CheckpointError:
            refused += 1
    assert refused > 50
