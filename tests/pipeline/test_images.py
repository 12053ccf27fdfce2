"""Pictures, tensors and files."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.files import write_atomically
from ldm.images import (
    check_target,
    digest,
    on_white,
    pad_to_multiple,
    read_metadata,
    save_image,
    to_images,
    to_tensor,
    with_metadata,
)


def noise_picture(width: int = 13, height: int = 9) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_images_survive_the_way_to_tensors_and_back():
    picture = noise_picture()
    x = to_tensor(picture)
    assert x.shape == (1, 3, 9, 13) and x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    assert to_images(x)[0].tobytes() == picture.tobytes()


def test_to_images_clamps_and_rounds():
    x = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert np.array(to_images(x)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_on_white_shows_white_through_transparency(mode):
    assert on_white(Image.new(mode, (2, 2), 0)).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128)).convert(mode)
    assert on_white(half).getpixel((0, 0))[1] == pytest.approx(127 if mode == "RGBA" else 165, abs=1)  # type: ignore


def test_on_white_knows_transparent_palettes(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    with Image.open(tmp_path / "p.png") as image:
        white, blue = to_tensor(image)[0, :, 0].T
    assert white.tolist() == [1, 1, 1] and blue.tolist() == [-1, -1, 1]


def test_pad_repeats_right_and_bottom_edges():
    x = torch.randn(2, 3, 9, 13)
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (2, 3, 16, 16)
    assert torch.equal(padded[:, :, :9, :13], x)
    assert torch.equal(padded[:, :, 9:, :13], x[:, :, -1:].expand(-1, -1, 7, -1))
    assert torch.equal(padded[:, :, :9, 13:], x[..., -1:].expand(-1, -1, -1, 3))
    assert torch.equal(pad_to_multiple(padded, 8), padded)


def test_png_keeps_metadata_and_pixels(tmp_path):
    told = {"prompt": "ein Füchschen, 狐狸 🦊\nzwei", "seed": 2**53 + 1, "guidance": 0.1, "spacing": None}
    path = save_image(with_metadata(noise_picture(), told), tmp_path / "fox.png")
    assert read_metadata(path) == {**told, "sha256": digest(noise_picture())}
    with Image.open(path) as image:
        assert image.format == "PNG" and image.tobytes() == noise_picture().tobytes()


def test_read_metadata_refuses_pictures_of_others(tmp_path):
    noise_picture().save(tmp_path / "other.png")
    with pytest.raises(ValueError, match="carries no settings of this library"):
        read_metadata(tmp_path / "other.png")


def test_save_image_overwrites_nothing(tmp_path):
    picture = noise_picture()
    names = [save_image(picture, tmp_path / "new" / "folder").name for _ in range(3)]
    assert names == ["00000.png", "00001.png", "00002.png"]
    (tmp_path / "fox.png").write_bytes(b"mine")
    assert [save_image(picture, tmp_path / "fox.png").name for _ in range(2)] == ["fox-1.png", "fox-2.png"]
    assert (tmp_path / "fox.png").read_bytes() == b"mine"


def test_save_image_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    def fail(self, path, **_):
        path.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_image(noise_picture(), tmp_path / "fox.png")
    assert list(tmp_path.iterdir()) == []


def test_write_atomically_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "state.pt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(partial):
        partial.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_check_target_refuses_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"fox.gif is neither a folder nor a .png, .jpg, .jpeg or .webp; try .*x.png"):
        check_target(tmp_path / "fox.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is no folder that can be written to; give another --out"):
        check_target(tmp_path / "file" / "fox.png")
    for fine in (tmp_path, tmp_path / "new" / "deep", tmp_path / "new" / "fox.png", tmp_path / "FOX.PNG"):
        check_target(fine)
    assert not (tmp_path / "new").exists()


def test_check_target_refuses_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)         # the superuser may write everywhere
    with pytest.raises(ValueError, match="no folder that can be written to"):
        check_target(tmp_path / "fox.png")
