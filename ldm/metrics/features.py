"""Features of pictures: what a network, given as a callable or a local file, says of each."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.files import listed
from ldm.images import FORMATS, to_tensor

Network = Callable[[Tensor], Tensor]                    # pictures [B 3 H W] in [0, 1] -> features [B D]
Resize = Literal["bicubic", "bilinear"]


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures of a folder and its subfolders, sorted; hidden ones are left out.

    Raises ValueError where there are none.
    """
    found = listed(folder, FORMATS)
    if not found:
        raise ValueError(f"{folder} is no folder of pictures ({', '.join(FORMATS)}); give one")
    return found


def load_network(path: str | Path, device: str = "cpu") -> Network:
    """A network from a file that holds it whole: .pt2 of torch.export, else TorchScript.

    Such a file is a program: take it from whom you trust.  Raises ValueError for a file of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a network that torch.export or TorchScript saved")
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module().to(device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", FutureWarning)
            return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise ValueError(f"{path} holds no network of torch.export (.pt2) or TorchScript; weights alone are not "
                         "enough, save the network with them") from error


def read(path: Path, size: int | None, resize: Resize) -> Tensor:
    """A picture [1 3 H W] in [0, 1]; with `size` scaled to that square, smoothed as it shrinks (antialiased).

    Not rounded to 8 bits, and bicubic may leave [0, 1] a little, as Parmar et al. 2022 advise.
    """
    with Image.open(path) as file:
        x = (to_tensor(file) + 1) / 2
    return x if size is None else F.interpolate(x, (size, size), mode=resize, antialias=True)


@torch.no_grad()
def features_of(network: Network, files: Sequence[Path], size: int | None = None, resize: Resize = "bicubic",
                batch: int = 32, device: str = "cpu") -> Iterator[Tensor]:
    """What the network says of pictures, up to `batch` at a time: [B D], float32, on the CPU.

    The network always sees whole batches, the last filled up with copies, for a file may be made for one size only.
    Raises ValueError where pictures differ in size and none is given, and for what is not one vector per picture.
    """
    for start in range(0, len(files), batch):
        part = [read(path, size, resize) for path in files[start : start + batch]]
        if len({x.shape for x in part}) > 1:
            raise ValueError(f"pictures at {files[start]} differ in size; give one to scale them to")
        images = torch.cat(part + [part[-1]] * (batch - len(part))).to(device)
        try:
            made = network(images)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"the network does not take pictures {list(images.shape)}: {first_line(error)}; give "
                             "another size or batch") from error
        if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != batch:
            shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"the network gives {shape} for {batch} pictures, not [{batch} D]; take one that ends in "
                             "a vector per picture")
        yield made[: len(part)].float().cpu()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def collect(batches: Iterable[Tensor], count: int, path: str | Path) -> Tensor:
    """`count` rows of batches [B D] as one tensor [count D] float32 that lies in a new file, not in memory.

    Raises ValueError where a feature is not finite.
    """
    whole, at = torch.empty(0, 0), 0
    for rows in batches:
        if not rows.isfinite().all():
            raise ValueError("a feature is not finite; take the network in float32, and pictures that are whole")
        if not at:
            whole = torch.from_file(str(path), shared=True, size=count * rows.shape[1]).view(count, rows.shape[1])
        whole[at : at + len(rows)] = rows
        at += len(rows)
    return whole
