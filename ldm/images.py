"""Pictures: Pillow images <-> tensors [B 3 H W] in [-1, 1], and files with metadata."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm.files import write_atomically

KEY = "ldm"                                             # of our JSON in a picture's metadata


def on_white(image: Image.Image) -> Image.Image:
    """Pillow image of any mode -> RGB, upright as its EXIF data say; what is transparent shows white.

    Raises ValueError for 16-bit pictures, which Pillow would clip.
    """
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


def with_metadata(image: Image.Image, metadata: dict[str, Any]) -> Image.Image:
    """Attach JSON that `save_image` writes into the file."""
    image.info[KEY] = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    return image


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON that `save_image` wrote into a PNG.  Raises ValueError where there is none."""
    with Image.open(path) as image:
        if KEY not in image.info:
            raise ValueError(f"{path} carries no settings of this library; give a PNG that it wrote")
        return json.loads(image.info[KEY])


def save_image(image: Image.Image, target: str | Path) -> Path:
    """Write a PNG with its metadata to a file, or into a folder under the next free number; returns its path.

    Nothing is overwritten: where the file exists, a number is added to its name.  Until the picture is whole, an empty
    file holds the name.
    Raises ValueError where `target` has a suffix other than .png.
    """
    path = reserve(Path(target))
    info = PngInfo()
    if KEY in image.info:
        info.add_itxt(KEY, image.info[KEY])
    try:
        write_atomically(path, lambda p: image.save(p, format="PNG", pnginfo=info))
    except BaseException:
        path.unlink()                                   # the empty file that held the name
        raise
    return path


def check_target(target: str | Path) -> None:
    """Raises ValueError where `save_image` could not write to `target`: to be called before the work starts."""
    target = Path(target)
    if target.suffix.lower() not in ("", ".png") and not target.is_dir():
        raise ValueError(f"{target} is neither a folder nor a .png; try {target.with_suffix('.png')}")
    folder = target if target.is_dir() or not target.suffix else target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is no folder that can be written to; give another --out")


def reserve(target: Path) -> Path:
    """Create an empty file under a name that was free: `target`, or numbered."""
    check_target(target)
    is_folder = target.is_dir() or not target.suffix
    folder = target if is_folder else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    n = 0
    while True:
        name = f"{n:05d}.png" if is_folder else target.name if n == 0 else f"{target.stem}-{n}{target.suffix}"
        try:
            (folder / name).touch(exist_ok=False)       # exclusive, so that two programs never take one name
            return folder / name
        except FileExistsError:
            n += 1
