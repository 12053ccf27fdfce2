"""Pictures: Pillow images <-> tensors [B 3 H W] in [-1, 1], and files with metadata."""

import hashlib
import io
import json
import math
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm.files import refused, write_atomically
from ldm.metadata import to_parameters

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
KEY = "ldm"                                             # of our JSON in a picture's metadata
TEXT = "parameters"                                     # of A1111's text there
JPEG_EXIF = 65_533                                      # bytes that a segment of a JPEG holds
UNICODE = b"UNICODE\0"                                  # starts a UserComment of EXIF


@contextmanager
def readable(image: Image.Image) -> Iterator[Image.Image]:
    """Raises ValueError for a damaged PNG, for which Pillow has a SyntaxError; for others it has OSErrors."""
    try:
        yield image
    except SyntaxError as error:
        image.close()
        raise ValueError(f"the picture is damaged ({error}); copy it again") from error


def on_white(image: Image.Image) -> Image.Image:
    """Pillow image of any mode -> RGB, upright as its EXIF data say; what is transparent shows white.

    Raises ValueError for 16-bit pictures, which Pillow would clip, and for damaged ones.
    """
    with readable(image):
        image.load()
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(f"a picture of mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow image -> [1 3 H W] float32 in [-1, 1]; transparency is laid on white."""
    return torch.from_numpy(np.array(on_white(image))).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_images(x: Tensor) -> list[Image.Image]:
    """[B 3 H W] in [-1, 1] (clamped) -> Pillow images, rounded to 8 bits."""
    x = (x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return [Image.fromarray(a) for a in x.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges until both sides are multiples.  [B 3 H W] -> [B 3 H' W']."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def digest(image: Image.Image) -> str:
    """SHA-256 of the pixels, row by row, in hexadecimal digits."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in dB: RGB, 8 bits; infinite where they are equal."""
    difference = np.asarray(on_white(a), float) - np.asarray(on_white(b), float)
    error = np.mean(difference**2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def with_metadata(image: Image.Image, metadata: dict[str, Any]) -> Image.Image:
    """Attach JSON that `save_image` writes into the file."""
    image.info[KEY] = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    return image


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON that `save_image` wrote into a picture.  Raises ValueError where there is none."""
    with Image.open(path) as image, readable(image):
        described = str(image.getexif().get(ExifTags.Base.ImageDescription, ""))
        text = image.info.get(KEY) or described.removeprefix(KEY)
        if text == described:
            raise ValueError(f"{path} carries no settings of this library; give a picture that it wrote")
        return json.loads(text)


def read_parameters(path: str | Path) -> str:
    """The text that A1111, and `save_image`, write into a picture.  Raises ValueError where there is none."""
    with Image.open(path) as image, readable(image):
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        text = image.info.get(TEXT) or decode_comment(bytes(comment))
        if not text:
            raise ValueError(f"{path} carries no parameters; give a picture that this library or A1111 wrote")
        return text


def decode_comment(comment: bytes) -> str:
    """A UserComment of EXIF: after "UNICODE" UTF-16, whose byte order no two programs agree on; else UTF-8."""
    text = comment.removeprefix(UNICODE)
    if text == comment:
        return comment[8:].decode("utf-8", errors="replace")
    big = text[::2].count(0) >= text[1::2].count(0)     # of ASCII, every second byte is 0
    return text.decode("utf-16-be" if big else "utf-16-le", errors="replace")


def save_image(image: Image.Image, target: str | Path, quality: int = 95) -> Path:
    """Write a picture with its metadata to a file, or as a PNG into a folder under the next free number.

    The suffix says the format: .png, .jpg, .jpeg or .webp.  quality 1 to 100 is of the last three; a WebP of 100
    loses nothing.  Beside our JSON, which gains the SHA-256 of the RGB pixels, stands the text that A1111 writes.
    Nothing is overwritten: where the file exists, a number is added to its name.  Until the picture is whole, an empty
    file holds the name.  Returns its path.
    Raises ValueError for another suffix or quality.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality} is outside 1..100; try 95")
    path = reserve(Path(target))
    try:
        encoded = io.BytesIO()                          # Pillow overlooks it where a disk takes but a part of a JPEG
        image.save(encoded, **encoding(image, FORMATS[path.suffix.lower()], quality))
        write_atomically(path, lambda p: p.write_bytes(encoded.getvalue()))
    except BaseException:
        path.unlink()                                   # the empty file that held the name
        raise
    return path


def encoding(image: Image.Image, format: str, quality: int = 95) -> dict[str, Any]:
    """Arguments with which Pillow saves a picture and its metadata: "PNG", "JPEG" or "WEBP"."""
    told = json.loads(image.info.get(KEY, "{}"))
    if told:
        told["sha256"] = digest(image.convert("RGB"))
    text = to_parameters(told, *image.size) if told else ""
    if format == "PNG":
        info = PngInfo()
        if told:
            info.add_itxt(KEY, json.dumps(told, ensure_ascii=False, sort_keys=True))
            info.add_text(TEXT, text)
        return {"format": format, "pnginfo": info}
    data = exif(KEY + json.dumps(told, sort_keys=True), text) if told else b""
    if format == "JPEG" and len(data) > JPEG_EXIF:
        warnings.warn(f"the settings take {len(data):,} bytes, and a JPEG has room for {JPEG_EXIF:,}; it is written "
                      "without them (a PNG has room)", stacklevel=3)
        data = b""
    return {"format": format, "quality": quality, "lossless": quality == 100, "exif": data}


def exif(description: str, comment: str) -> bytes:
    """EXIF data of two fields: ImageDescription, which is ASCII, and UserComment, which is not.

    Pillow would write a comment of type BYTE, which A1111 cannot read; the standard's is UNDEFINED.
    CIPA DC-008 (Exif 2.32), sections 4.5.4 and 4.6.5; TIFF 6.0, section 2.
    """
    first, second = description.encode("ascii") + b"\0", UNICODE + comment.encode("utf-16-be")
    padding = b"\0" * (len(first) % 2)                  # what follows must begin at an even place
    header = struct.pack(">2sHL", b"MM", 42, 8)                                     # big-endian; 8 bytes
    ifd = struct.pack(">H HHLL HHLL L", 2, 0x010E, 2, len(first), 56, 0x8769, 4, 1, 38, 0)          # from 8 to 38
    sub = struct.pack(">H HHLL L", 1, 0x9286, 7, len(second), 56 + len(first + padding), 0)         # from 38 to 56
    return b"Exif\0\0" + header + ifd + sub + first + padding + second


def check_target(target: str | Path) -> None:
    """Raises ValueError where `save_image` could not write to `target`: to be called before the work starts."""
    target = Path(target)
    if target.suffix and target.suffix.lower() not in FORMATS and not target.is_dir():
        *others, last = FORMATS
        raise ValueError(f"{target} is neither a folder nor a {', '.join(others)} or {last}; "
                         f"try {target.with_suffix('.png')}")
    folder = target if target.is_dir() or not target.suffix else target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is no folder that can be written to; give another --out")


def reserve(target: Path) -> Path:
    """Create an empty file under a name that was free: `target`, or numbered.  Raises as `write_atomically`."""
    check_target(target)
    is_folder = target.is_dir() or not target.suffix
    folder = target if is_folder else target.parent
    n = 0
    while True:
        name = f"{n:05d}.png" if is_folder else target.name if n == 0 else f"{target.stem}-{n}{target.suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch(exist_ok=False)       # exclusive, so that two programs never take one name
            return folder / name
        except FileExistsError:
            n += 1
        except OSError as error:
            raise refused(folder / name, error.errno) from error
