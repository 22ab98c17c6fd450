"""Builds and loads `fake_cuda.cpp`, which makes torch believe in a GPU.

Where there is no GPU, torch refuses a backward pass of CUDA tensors, even of fake ones. Nothing in Python can
change that, so a C++ compiler is needed: once for each build of torch, after which the library is cached. The
library replaces what a CUDA build has registered as well as what a CPU build lacks.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from data_tools import children
from pretrain.errors import UserError

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
COMPILERS = ("c++", "g++", "clang++")


def pretend_gpu(on: bool) -> None:
    """Put the pretended GPU into torch, or take it out again.

    Raises UserError: there is no C++ compiler, it failed, or its library cannot be loaded.
    """
    _library().fake_cuda(on)


@cache
def _library() -> ctypes.CDLL:
    torch = _torch()
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    try:
        library = ctypes.CDLL(str(built_library()))
    except OSError as error:  # a home mounted noexec, or a file that was damaged
        raise UserError(
            f"the pretended GPU cannot be loaded: {error}; remove this file, or name in "
            "XDG_CACHE_HOME a folder from which programs may run"
        ) from None
    library.fake_cuda.argtypes, library.fake_cuda.restype = [ctypes.c_bool], None
    return library


def _torch() -> Path:
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is a requirement of this package"
    return Path(spec.origin).parent


def built_library() -> Path:
    """The library for the installed torch, built if the cache has none. Raises UserError as `pretend_gpu`."""
    torch = _torch()
    # Machines of several architectures may share one home.
    source = SOURCE.read_bytes() + (torch / "version.py").read_bytes() + platform.machine().encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain"
    library = folder / f"fake_cuda-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if library.exists():
        return library
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise UserError(
            f"a rehearsal of what runs on GPUs builds {SOURCE.name}, and there is no C++ compiler here "
            f"({', '.join(COMPILERS)}, or the one in CXX): install g++, or run on a machine that has it"
        )
    include = torch / "include"
    command = [*compiler.split(), "-O1", "-shared", "-fPIC", "-std=c++20", f"-I{include}"]
    command += [f"-I{include / 'torch/csrc/api/include'}", str(SOURCE), f"-L{torch / 'lib'}"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:  # other processes may build it as well
            made = Path(own) / library.name
            command += ["-lc10", "-ltorch_cpu", "-o", str(made)]
            done = children.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                first = (done.stderr.strip().splitlines() or ["no message"])[0]
                raise UserError(
                    f"{compiler} could not build {SOURCE}: {first}; torch needs a compiler that knows C++20, "
                    "and CXX may name one"
                )
            made.replace(library)
    except OSError as error:
        raise UserError(f"{library} cannot be built: {error.strerror} ({error.filename})") from None
    return library
