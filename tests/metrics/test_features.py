"""Features of pictures: how they are read, and networks from files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ldm.metrics import collect, features_of, load_network, pictures_in
from ldm.metrics.features import read


class Colours(nn.Module):
    """Mean of each colour, and of the left half alone: [B 3 H W] -> [B 6]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x[..., : x.shape[-1] // 2].mean((2, 3))], dim=1)


def noise(path: Path, size: tuple[int, int] = (20, 20), seed: int = 0) -> Path:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [noise(tmp_path / f"{i}.png", seed=i) for i in range(5)]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The network, saved by torch.export for two pictures at a time."""
    path = tmp_path / "colours.pt2"
    torch.export.save(torch.export.export(Colours(), (torch.zeros(2, 3, 20, 20),)), path)
    return path


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    path = tmp_path / "colours.pt"
    torch.jit.save(torch.jit.script(Colours()), path)
    return path


def test_pictures_in_are_sorted_and_not_hidden(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.JPG", ".a.12.partial.png", "below/c.webp"):
        noise(tmp_path / name)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    assert [str(p.relative_to(tmp_path)) for p in pictures_in(tmp_path)] == ["a.JPG", "b.png", "below/c.webp"]


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_pictures_in_refuses_a_folder_without(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no folder of pictures"):
        pictures_in(tmp_path / folder)


def test_read_scales_as_pillow_does_in_floats(tmp_path, parity):
    """Each colour as a picture of mode F, which is not rounded: clean-fid (Parmar et al. 2022) does it so."""
    path, worst = noise(tmp_path / "noise.png", (150, 90)), 0.0
    for resize in ("bicubic", "bilinear"):
        for size in (32, 299):
            channels = [Image.fromarray(c.astype(np.float32)).resize((size, size), Image.Resampling[resize.upper()])
                        for c in np.moveaxis(np.array(Image.open(path)), 2, 0)]
            expected = np.stack([np.array(c) for c in channels]) / 255
            worst = max(worst, np.abs(read(path, size, resize)[0].numpy() - expected).max())
    parity("pictures scaled for a feature network, share of the range", "pillow", worst, 5e-5)


def test_read_leaves_no_aliasing(tmp_path):
    """A board of single pixels, black and white, is grey from afar."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).convert("RGB").save(tmp_path / "board.png")
    assert (read(tmp_path / "board.png", 8, "bicubic")[..., 1:-1, 1:-1] - 0.5).abs().max() < 0.02


def test_read_keeps_pixels_where_no_size_is_given(tmp_path):
    path = noise(tmp_path / "noise.png", (30, 20))
    expected = np.moveaxis(np.array(Image.open(path)), 2, 0)[None] / 255
    np.testing.assert_allclose(read(path, None, "bicubic"), expected, atol=1e-6)


def test_features_are_those_of_each_picture_alone(files):
    whole = torch.cat(list(features_of(Colours(), files, batch=2)))
    alone = torch.cat([Colours()(read(path, None, "bicubic")) for path in files])
    assert whole.shape == (5, 6)
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-6)


def test_network_sees_whole_batches_only(files):
    seen = []
    parts = [len(part) for part in features_of(lambda x: seen.append(x.shape) or x.mean((2, 3)), files, 8, batch=2)]
    assert parts == [2, 2, 1] and seen == [(2, 3, 8, 8)] * 3


def test_exported_network_equals_the_module(files, exported):
    found = torch.cat(list(features_of(load_network(exported), files, batch=2)))
    torch.testing.assert_close(found, torch.cat(list(features_of(Colours(), files))), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")                  # to write one; to read it none is shown
def test_scripted_network_equals_the_module(files, scripted):
    found = torch.cat(list(features_of(load_network(scripted), files, batch=2)))
    torch.testing.assert_close(found, torch.cat(list(features_of(Colours(), files))), rtol=1e-6, atol=1e-6)


def test_exported_network_refuses_another_batch_in_a_line(files, exported):
    with pytest.raises(ValueError, match=r"does not take pictures \[4, 3, 20, 20\]: .*; give another size or batch$"):
        list(features_of(load_network(exported), files, batch=4))


@pytest.mark.parametrize("name", ["weights.pt", "weights.pt2", "nowhere.pt2"])
def test_load_network_refuses_what_is_no_network(tmp_path, name):
    if name.startswith("weights"):
        torch.save({"weight": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(ValueError, match="is no file; give a network|weights alone are not enough"):
        load_network(tmp_path / name)


def test_features_refuse_pictures_of_two_sizes_and_networks_of_another_kind(tmp_path, files):
    with pytest.raises(ValueError, match="differ in size; give one to scale them to"):
        list(features_of(Colours(), [*files, noise(tmp_path / "wide.png", (30, 20))]))
    with pytest.raises(ValueError, match=r"gives \[2, 3, 20, 20\] for 2 pictures, not \[2 D\]"):
        list(features_of(lambda x: x, files, batch=2))
    with pytest.raises(ValueError, match="gives dict for 2 pictures"):
        list(features_of(lambda x: {"features": x}, files, batch=2))  # pyright: ignore[reportArgumentType]


def test_collected_features_lie_in_a_file(tmp_path):
    batches = [torch.rand(3, 4), torch.rand(3, 4), torch.rand(1, 4)]
    whole = collect(iter(batches), 7, tmp_path / "features")
    assert torch.equal(whole, torch.cat(batches)) and whole.dtype == torch.float32
    assert np.array_equal(np.fromfile(tmp_path / "features", np.float32), torch.cat(batches).flatten())


def test_collect_refuses_what_is_not_finite(tmp_path):
    with pytest.raises(ValueError, match="a feature is not finite"):
        collect([torch.tensor([[1, float("nan")]])], 1, tmp_path / "features")
