"""Headers of .ckpt, .pt, .pth and .bin files, read by an unpickler that executes nothing.

A pickle is a program that may call anything.  This one can name six harmless things; every other name becomes `Stub`,
which does nothing.  Tensors are described, not read.  Formats: torch/serialization.py, `_save` and `_legacy_save`.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ldm.weights.entries import CheckpointError, Entry, check_extent, contiguous_stride

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
            "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
            "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
            "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8}
DTYPES = {str(dtype).removeprefix("torch."): dtype
          for dtype in (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)}
Spans = dict[str, tuple[int, int]]                      # first byte and end of each storage


class Stub:
    """Stands for any class or function a pickle names: accepts everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Stub":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def ignore(self, *args: Any) -> None:
        pass

    __call__ = __setstate__ = __setitem__ = append = extend = add = ignore


class PlainDict(dict):
    """Stands for OrderedDict; what a pickle sets on it beside its items is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class ParameterDict(dict):
    """Stands for torch's, in which the first textual inversions keep their vectors."""

    def __setstate__(self, state: Any) -> None:
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        self.update(parameters if isinstance(parameters, dict) else {})


class Allowed:
    """A function that a pickle may call, and cannot change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        pass


class Storage(NamedTuple):
    """A run of numbers outside the pickle."""

    key: str
    dtype: torch.dtype
    first: int                                          # element at which a view of another storage begins


class Described(NamedTuple):
    """A tensor: which elements of a storage."""

    storage: Storage
    offset: int                                         # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def describe(storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or len(shape) != len(stride) or not all(type(n) is int for n in numbers):
        return Stub()
    return Described(storage, offset, tuple(shape), tuple(stride))


def describe_typed(storage: Any, *args: Any) -> Any:
    """Stands for torch._utils._rebuild_tensor_v3, which gives the dtype apart: 8-bit floats."""
    dtype = args[5]
    typed = isinstance(storage, Storage) and isinstance(dtype, torch.dtype)
    return describe(storage._replace(dtype=dtype), *args[:3]) if typed else Stub()


def encode(text: Any, encoding: Any) -> Any:
    """Stands for _codecs.encode, by which Python 3 writes bytes in protocol 2."""
    return text.encode("latin1") if type(text) is str and encoding == "latin1" else Stub()


FUNCTIONS = {("torch._utils", "_rebuild_tensor"): describe, ("torch._utils", "_rebuild_tensor_v2"): describe,
             ("torch._utils", "_rebuild_tensor_v3"): describe_typed,
             ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor, ("_codecs", "encode"): encode,
             ("torch", "Size"): lambda sizes: tuple(sizes)}


class RestrictedUnpickler(pickle._Unpickler):
    """Builds plain containers, numbers, strings and descriptions of tensors; all else is inert.

    On Python's own unpickler, because the one in C allocates as many memo slots as a damaged file asks for.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.dtypes: dict[str, torch.dtype] = {}        # of every storage that the pickle mentions, by key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return PlainDict
        if (module, name) == ("torch.nn.modules.container", "ParameterDict"):
            return ParameterDict
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) in FUNCTIONS:
            return Allowed(FUNCTIONS[module, name])
        return Stub

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(), *view):
                self.dtypes[key] = dtype
                match view:
                    case [] | [None]:
                        return Storage(key, dtype, 0)
                    case [(_, int(first), _)]:          # legacy: a part of another storage
                        return Storage(key, dtype, first)
        return Stub()


def unpickle(file: BinaryIO, path: Path) -> tuple[Any, dict[str, torch.dtype]]:
    """Next object of a pickle, and the dtypes of its storages.  Executes nothing.

    Raises CheckpointError where the pickle is damaged.
    """
    unpickler = RestrictedUnpickler(file)
    try:
        return unpickler.load(), unpickler.dtypes
    except Exception as e:  # a hostile or damaged pickle may fail in any way
        raise CheckpointError(f"{path} is truncated or damaged: its pickle cannot be read ({e}); "
                              "download or copy the file again") from e


def tensors_of(tree: Any) -> dict[str, Described]:
    """Tensors of a checkpoint by name: those below `state_dict`, where it has one.  Other contents are dropped."""
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict):
        return {"tensor": tree} if isinstance(tree, Described) else {}
    vectors = tree.get("string_to_param")               # a textual inversion's
    tree = {f"string_to_param.{token}": v for token, v in vectors.items()} if isinstance(vectors, dict) else tree
    return {name: tensor for name, tensor in tree.items() if isinstance(name, str) and isinstance(tensor, Described)}


def place(path: Path, tensors: Mapping[str, Described], spans: Spans) -> dict[str, Entry]:
    """Entries from descriptions and each storage's (first byte, end)."""
    entries = {}
    for name, (storage, offset, shape, stride) in tensors.items():
        if storage.key not in spans:
            raise CheckpointError(f"{path} is truncated or damaged: the numbers of {name} are not in it; "
                                  "download or copy it again")
        start, end = spans[storage.key]
        stride = contiguous_stride(shape) if 0 in shape else stride
        first = start + (storage.first + offset) * storage.dtype.itemsize
        entries[name] = check_extent(name, Entry(path, first, storage.dtype, shape, stride), start, end)
    return entries


def read_zip(path: Path) -> dict[str, Entry]:
    """Tensors of a file in torch.save's zip format.  Raises CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
            root = next((n for n in records if n.endswith("data.pkl")), "").removesuffix("data.pkl")
            if f"{root}data.pkl" not in records:
                raise CheckpointError(f"{path} is a zip archive, but none of torch.save; unpack it first")
            if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
                raise CheckpointError(f"{path} is a compressed archive; unpack it and save it again with torch.save")
            if f"{root}byteorder" in records and archive.read(f"{root}byteorder") != b"little":
                raise CheckpointError(f"{path} is big-endian; save it again on a little-endian machine")
            header = archive.read(f"{root}data.pkl")
    except CheckpointError:
        raise
    except Exception as e:  # zipfile fails in many ways
        raise CheckpointError(f"{path} is truncated or damaged: {e}; download or copy the file again") from e
    tensors = tensors_of(unpickle(io.BytesIO(header), path)[0])
    spans, size = {}, path.stat().st_size
    with open(path, "rb") as file:
        for key in {t.storage.key for t in tensors.values()}:
            info = records.get(f"{root}data/{key}")
            if info is None or not 0 <= info.header_offset <= size - 30:
                continue                                # `place` names the tensor that is missing
            file.seek(info.header_offset + 26)          # in the local header: the lengths of its name and extra field
            start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            spans[key] = (start, min(start + info.file_size, size))
    return place(path, tensors, spans)


def read_legacy(path: Path) -> dict[str, Entry]:
    """Tensors of a file as torch.save wrote it before version 1.6: five pickles, then the storages.

    Raises CheckpointError.
    """
    with open(path, "rb") as file:
        if unpickle(file, path)[0] != LEGACY_MAGIC:
            raise CheckpointError(f"{path} is a pickle, but none of torch.save; give a .ckpt, .pt or .safetensors file")
        unpickle(file, path)                            # protocol version
        system, _ = unpickle(file, path)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{path} is big-endian; save it again on a little-endian machine")
        tree, dtypes = unpickle(file, path)
        keys, _ = unpickle(file, path)
        spans = storage_spans(file, path, keys if isinstance(keys, list) else [], dtypes)
    return place(path, tensors_of(tree), spans)


def storage_spans(file: BinaryIO, path: Path, keys: list, dtypes: Mapping[str, torch.dtype]) -> Spans:
    """(First byte, end) of each storage of a legacy file: an int64 count, then the numbers, one after the other."""
    spans, size = {}, path.stat().st_size
    for key in keys:
        count = file.read(8)
        if len(count) < 8 or not isinstance(key, str) or key not in dtypes:
            break                                       # `place` names the tensor that is missing
        start = file.tell()
        end = min(start + max(struct.unpack("<q", count)[0], 0) * dtypes[key].itemsize, size)
        spans[key] = (start, end)
        file.seek(end)
    return spans
