"""Compiled kernels: built once by `python -m ldm.native`, loaded where they are there, never needed.

They are kept in the user's cache folder, under a name that holds the source, the version of PyTorch and the CPU.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ldm.files import write_atomically

SOURCE = Path(__file__).parent / "attention.cpp"


@cache
def cpu() -> Mapping[str, Any]:
    """What the CPU can do: "avx512_f", "avx512_bf16", "amx_bf16", and more where PyTorch can tell more."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    asked = {"avx512_f": "_is_avx512_supported", "avx512_bf16": "_is_avx512_bf16_supported",
             "amx_bf16": "_is_amx_tile_supported"}                          # PyTorch before 2.9
    return {name: getattr(torch.cpu, function, bool)() for name, function in asked.items()}


def supported() -> bool:
    """Whether there are kernels for this machine: Linux on a CPU with AVX-512."""
    return sys.platform == "linux" and bool(cpu().get("avx512_f"))


def library() -> Path:
    """Where the compiled kernels are, or would be."""
    made_from = SOURCE.read_text() + torch.__version__ + repr(sorted(cpu().items()))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ldm"
    return folder / f"native-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"


def build() -> Path:
    """Compile the kernels for this machine, unless they are there -> their file.

    Raises RuntimeError where there are none for this machine, where no C++ compiler is found, or where it fails.
    """
    compiler, torch_folder, target = os.environ.get("CXX", "g++"), Path(torch.__file__).parent, library()
    if target.exists():
        return target
    if not supported():
        raise RuntimeError("there are no compiled kernels for this machine (they want Linux and AVX-512); none needed")
    if shutil.which(compiler) is None:
        raise RuntimeError(f"compiler {compiler} is not there; install g++, or go on without compiled kernels")
    includes = [f"-I{torch_folder / 'include'}", f"-I{torch_folder / 'include/torch/csrc/api/include'}"]
    command = [compiler, "-O3", "-march=native", "-std=c++20", "-fPIC", "-fopenmp", "-shared", "-DNDEBUG", *includes,
               str(SOURCE), f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10", "-o"]

    def compile_to(path: Path) -> None:
        done = subprocess.run([*command, str(path)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{compiler} failed on {SOURCE.name}; go on without compiled kernels, or report this:\n"
                               f"{done.stderr[:2000]}")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, compile_to)
    except OSError as error:
        raise RuntimeError(f"{target.parent} cannot be written ({error}); set XDG_CACHE_HOME to another") from error
    return target


@cache
def available() -> bool:
    """Load the compiled kernels if they were built for this machine and this version of PyTorch.

    Warns where they are there but cannot be loaded.
    """
    if not library().exists():
        return False
    try:
        torch.ops.load_library(str(library()))
    except OSError as error:
        warnings.warn(f"the compiled kernels cannot be loaded ({error}); remove {library()}, run python -m ldm.native",
                      stacklevel=2)
        return False
    return True
