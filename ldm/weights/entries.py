"""Where tensors lie in files, and reading them one at a time."""

import mmap
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

WINDOW = 2**28                                          # bytes of a file that are mapped together
BUFFER = 2**26                                          # first size of the buffer.  No memory until touched; more than
                                                        # 32 MiB, else glibc, when the buffer is freed, raises its limit
                                                        # of what it returns to the system, and freed models stay
SMALL = 2**14                                           # bytes below which a tensor is not worth pages of its own


class CheckpointError(ValueError):
    """A model file that cannot be used: says what, where and what to do."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a file.  Nothing of it has been read."""

    path: Path
    offset: int                                         # bytes from the start of the file to the first element
    dtype: torch.dtype | str                            # a str where torch has no such dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]                             # in elements
    rows: Tensor | None = field(default=None, compare=False)    # row-sparse: only these rows of dim 0 are stored

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape if self.rows is None else (len(self.rows), *self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the end of the last."""
        if not isinstance(self.dtype, torch.dtype) or 0 in self.stored_shape:
            return 0
        last = sum((n - 1) * step for n, step in zip(self.stored_shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a tensor stored row by row."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def check_extent(name: str, entry: Entry, begin: int, end: int) -> Entry:
    """The entry itself, if it lies in bytes `begin` to `end` of its file.  Raises CheckpointError where it does not."""
    if min(*entry.shape, *entry.stride, entry.offset - begin, 0) < 0 or entry.offset + entry.nbytes > end:
        raise CheckpointError(f"{entry.path} is truncated or damaged: {name} should end at byte "
                              f"{entry.offset + entry.nbytes:,}, its data end at {end:,}; download or copy it again")
    return entry


def strides(shape: tuple[int, ...], layout: torch.memory_format) -> tuple[int, ...]:
    """Strides, in elements, of a tensor in that layout, which is for tensors of four sides; others are contiguous."""
    layout = layout if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, device="meta", memory_format=layout).stride()


class Reader:
    """Reads tensors through one reused buffer, or maps them.

    Bytes read into the buffer do not stay resident; touched pages of a mapped file do.  So what must be converted is
    read, and only what is used as it lies is mapped.
    """

    def __init__(self):
        self.buffer = torch.empty(BUFFER, dtype=torch.uint8)
        self.maps: dict[tuple[Path, int], Tensor] = {}

    def read(self, entry: Entry, dtype: torch.dtype, device: str | torch.device = "cpu",
             layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """A new tensor with the entry's values.  Raises CheckpointError where the file ends too early."""
        assert isinstance(entry.dtype, torch.dtype)
        if len(self.buffer) < entry.nbytes:
            self.buffer = torch.empty(entry.nbytes, dtype=torch.uint8)
        raw = self.buffer[: entry.nbytes]
        with open(entry.path, "rb") as file:
            file.seek(entry.offset)
            if file.readinto(raw.numpy().data) != entry.nbytes:
                raise CheckpointError(f"{entry.path} is truncated; download or copy it again")
        stored = raw.view(entry.dtype).as_strided(entry.stored_shape, entry.stride)
        made = torch.empty_strided(entry.shape, strides(entry.shape, layout), dtype=dtype, device=device)
        if entry.rows is None:
            return made.copy_(stored)
        return made.zero_().index_copy_(0, entry.rows.to(device), stored.to(device, dtype))

    def map(self, entry: Entry, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """The entry's values where they lie: no memory until touched, copied on write, the file never changes.

        A file is mapped in windows, so that what is no longer used gives its pages back.
        """
        assert isinstance(entry.dtype, torch.dtype)
        start = entry.offset // WINDOW * WINDOW
        if (entry.path, start) not in self.maps:
            with open(entry.path, "rb") as file:
                length = min(2 * WINDOW, entry.path.stat().st_size - start)     # a tensor may reach into the next
                mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=start)
            self.maps[entry.path, start] = torch.frombuffer(mapped, dtype=torch.uint8)
        raw = self.maps[entry.path, start][entry.offset - start :][: entry.nbytes]
        return raw.view(entry.dtype).as_strided(entry.shape, strides(entry.shape, layout))

    def load(self, entry: Entry, dtype: torch.dtype, device: str | torch.device = "cpu",
             layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Map the entry where its dtype, place and layout allow it and it is worth a page, else read and convert it."""
        wanted = entry.dtype == dtype and torch.device(device).type == "cpu" and entry.rows is None
        aligned = entry.offset % dtype.itemsize == 0
        sides = zip(entry.shape, entry.stride, strides(entry.shape, layout), strict=True)
        laid_out = all(stored == step for n, stored, step in sides if n > 1)
        mappable = wanted and aligned and laid_out and SMALL <= entry.nbytes <= WINDOW
        return self.map(entry, layout) if mappable else self.read(entry, dtype, device, layout)
