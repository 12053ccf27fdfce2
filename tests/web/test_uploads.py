"""Pictures from outside."""

import base64
import io
import struct
import zlib

import pytest
from exchange import encoded
from PIL import Image

from ldm.web import uploads
from ldm.web.uploads import TooLarge, from_base64, open_picture

RED = Image.new("RGB", (8, 6), "red")


def png_head(width: int, height: int) -> bytes:
    """A PNG file that says to be so large, and holds next to nothing."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_of_each_format_is_read(format: str, prefix: str):
    picture = from_base64(prefix + encoded(RED, format))
    assert picture.format == format and picture.size == (8, 6)
    red, green, blue = picture.convert("RGB").getpixel((3, 3))
    assert red > 240 and green < 12 and blue < 12


@pytest.mark.parametrize("address", ["http://example.com/a.png", "https://example.com/a.png", "file:///etc/passwd"])
def test_addresses_are_refused(address: str):
    with pytest.raises(ValueError, match="nothing is fetched"):
        from_base64(address)


@pytest.mark.parametrize("text", ["", "/etc/passwd", "not base64!", "AAAA", "data:image/png;base64,", "\ud800", "é"])
def test_what_is_no_picture_is_refused(text: str):
    with pytest.raises(ValueError, match="no PNG, JPEG, WEBP file|not base64"):
        from_base64(text)


@pytest.mark.parametrize("size", [(5000, 5000), (12_000, 12_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]):
    with pytest.raises(TooLarge, match="16,777,216"):
        open_picture(png_head(*size))


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(uploads, "BYTES", 50)
    with pytest.raises(TooLarge, match="bytes"):
        from_base64(encoded(RED))
    with pytest.raises(TooLarge, match="bytes"):
        open_picture(bytes(51))


def test_a_damaged_picture_is_refused():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    with pytest.raises(ValueError, match="can be read"):
        open_picture(file.getvalue()[:-800])


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="can be read"):
        from_base64(encoded(RED, "TIFF"))


def test_a_picture_is_turned_upright():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    RED.save(file, "JPEG", exif=exif)
    assert open_picture(file.getvalue()).size == (6, 8)


def test_parameters_of_a_picture_without_any_are_empty():
    assert uploads.parameters(open_picture(base64.b64decode(encoded(RED)))) == ""
