"""Pictures from outside: base64 text or bytes -> Pillow, within bounds, and never from an address or a file."""

import base64
import binascii
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps

from ldm.images import TEXT, decode_comment

BYTES = 32 * 2**20                                      # of one file
PIXELS = 2**24                                          # of one picture, decoded: 4096x4096
FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


class TooLarge(ValueError):
    """A picture of more bytes or pixels than are taken."""


def from_base64(text: str) -> Image.Image:
    """Base64 text of a picture file, "data:image/png;base64," before it or not -> the picture.

    An address is refused: nothing is fetched.  Raises as `open_picture`.
    """
    if re.match(r"\w+://", text):
        raise ValueError(f"{text[:40]!r} is an address, and nothing is fetched; send the picture itself, in base64")
    mark = DATA_URL.match(text)
    encoded = text[mark.end() if mark else 0 :]
    if len(encoded) > BYTES * 4 // 3 + 4:
        raise TooLarge(f"a picture of about {len(encoded) * 3 // 4:,} bytes is above {BYTES:,}; make it smaller")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:40]!r} is not base64 of a picture; encode the bytes of its file") from error
    return open_picture(data)


def open_picture(data: bytes) -> Image.Image:
    """The bytes of a PNG, JPEG or WebP file -> the picture, decoded and upright, with its metadata in `info`.

    Its size is read off the head of the file, before anything is decoded.  Raises TooLarge, a ValueError, for more than
    BYTES or PIXELS, and ValueError for what cannot be read.
    """
    if len(data) > BYTES:
        raise TooLarge(f"a picture of {len(data):,} bytes is above {BYTES:,}; make it smaller")
    with refused():
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        check_pixels(*picture.size)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def check_picture(file: str | Path | BinaryIO) -> None:
    """Raises as `open_picture` for a file that it would not open, as far as its head says: nothing is decoded."""
    with refused(), Image.open(file, formats=FORMATS) as picture:
        check_pixels(*picture.size)


@contextmanager
def refused() -> Iterator[None]:
    """Whatever a decoder raises becomes TooLarge or ValueError."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"a picture of that many pixels is above {PIXELS:,}; make it smaller") from error
    except TooLarge:
        raise
    except Exception as error:                          # decoders raise all sorts of things where a file is damaged
        raise ValueError(f"this is no {', '.join(FORMATS)} file that can be read; send another") from error


def check_pixels(width: int, height: int) -> None:
    """Raises TooLarge for a picture of more than PIXELS."""
    if width * height > PIXELS:
        raise TooLarge(f"a picture of {width}x{height} pixels is above {PIXELS:,} in all; make it smaller")


def parameters(picture: Image.Image) -> str:
    """The text that A1111, and this library, write into pictures; "" where there is none."""
    try:
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        return str(picture.info.get(TEXT, "")) or decode_comment(bytes(comment))
    except Exception:                                   # metadata that is damaged, in any of many ways, says nothing
        return ""
