"""Where tensors lie in files, and reading them one at a time."""

import mmap
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor


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


class Reader:
    """Reads tensors through one reused buffer, or maps them.

    Bytes read into the buffer do not stay resident; touched pages of a mapped file do.  So what must be converted is
    read, and only what is used as it lies is mapped.
    """

    def __init__(self):
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.maps: dict[Path, Tensor] = {}

    def read(self, entry: Entry, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
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
        if entry.rows is None:
            return stored.to(device, dtype, memory_format=torch.contiguous_format, copy=True)
        dense = torch.zeros(entry.shape, dtype=dtype)
        dense[entry.rows] = stored.to(dtype)
        return dense.to(device)

    def map(self, entry: Entry) -> Tensor:
        """The entry's values where they lie: no memory until touched, copied on write, the file never changes."""
        assert isinstance(entry.dtype, torch.dtype)
        if entry.path not in self.maps:
            with open(entry.path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self.maps[entry.path] = torch.frombuffer(mapped, dtype=torch.uint8)
        raw = self.maps[entry.path][entry.offset : entry.offset + entry.nbytes]
        return raw.view(entry.dtype).view(entry.shape)

    def load(self, entry: Entry, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
        """Map the entry where its dtype and place allow it, else read and convert it."""
        wanted = entry.dtype == dtype and torch.device(device).type == "cpu"
        contiguous = entry.rows is None and entry.stride == contiguous_stride(entry.shape) and entry.nbytes > 0
        aligned = entry.offset % dtype.itemsize == 0
        return self.map(entry) if wanted and contiguous and aligned else self.read(entry, dtype, device)
