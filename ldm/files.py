"""Writing files so that nobody ever sees half of one."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

PROBE = 2**20                                           # bytes


def listed(folder: str | Path, suffixes: Collection[str]) -> list[Path]:
    """The files with these suffixes, in any case, of a folder and its subfolders, sorted.

    Hidden ones are left out: a program that was killed leaves what it had half written under such a name.
    """
    return sorted(path for path in Path(folder).rglob("*")
                  if path.suffix.lower() in suffixes and not path.name.startswith("."))


def stamp(path: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a file, or of all in a folder: another where one was written anew."""
    path = Path(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(file), s.st_size, s.st_mtime_ns) for file in files if file.exists() for s in [file.stat()])


def remove_partials(folder: Path) -> None:
    """Remove what `write_atomically` of programs that were killed left in a folder.  Nobody may be writing there."""
    for path in folder.glob(".*.partial*"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary file beside `path`, then rename it, so that `path` is never half-written.

    Raises OSError where the file cannot be written, because the disk is full for one, and what else `write` raises.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    except Exception as error:
        number = refusal(error, partial)
        if number is None:
            raise
        raise refused(path, number) from error
    finally:
        partial.unlink(missing_ok=True)


def refused(path: Path, number: int | None) -> OSError:
    """The error for a file that the system does not take, by the number of the system's error."""
    error = OSError(f"{path} cannot be written ({os.strerror(number or 0)}); make room, or give another place")
    error.errno = number
    return error


def refusal(error: Exception, partial: Path) -> int | None:
    """The number of the system's error that stopped a writer; None where it was another error.

    safetensors says the number in words.  PyTorch does not, but leaves what it wrote: that is asked to grow.
    """
    if isinstance(error, OSError):                      # one of another file, which the writer reads, is not the disk's
        return error.errno if error.filename is None or Path(error.filename) == partial else None
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told:
        return int(told[1])
    if not isinstance(error, RuntimeError):
        return None
    try:
        with partial.open("ab") as file:
            file.write(bytes(PROBE))
    except OSError as refused:
        return refused.errno
    return None
