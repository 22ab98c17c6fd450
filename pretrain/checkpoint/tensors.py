"""Reads and writes safetensors files as a stream: hashed while written, never in memory twice, mapped when
read.

The format (https://huggingface.co/docs/safetensors, "Format"): an 8-byte little-endian header length, a JSON
header padded with spaces to 8 bytes, then raw little-endian data. The stock library opens these files; we
write them ourselves because its writer needs all tensors in memory at once and leaves the hashing to a second
pass.
"""

import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from data_tools.bounded import parse_json
from data_tools.names import utf8_alias
from data_tools.typed import misread, natural
from pretrain.checkpoint.files import DurableFile, FileRecord
from pretrain.errors import IntegrityError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
LARGEST = (1 << 63) - 1
_MAX_HEADER = 100_000_000  # the stock library's own limit


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype in a file, such as `BF16`; ValueError for one that a checkpoint cannot hold."""
    if dtype not in NAMES:
        raise ValueError(f"a checkpoint cannot hold {dtype}; it can hold {', '.join(map(str, NAMES))}")
    return NAMES[dtype]


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is created when its turn to be written comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> "TensorSource":
        return cls(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _header(tensors: Sequence[TensorSource]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + tensor.size
        table[tensor.name] = {
            "dtype": dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    if len(table) != len(tensors) + 1:
        raise ValueError("two tensors of one file have the same name")
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"{len(tensors)} tensors need a header of {len(text)} bytes, beyond the format's limit"
        )
    return struct.pack("<Q", len(text)) + text


def in_file_order(tensors: Sequence[TensorSource]) -> list[TensorSource]:
    """Widest dtypes first, which keeps every tensor aligned to its own element size."""
    return sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)


def file_size(tensors: Sequence[tuple[str, torch.Tensor]]) -> int:
    """Bytes that `write_tensors` will write."""
    sources = [TensorSource.of(name, tensor) for name, tensor in tensors]
    return len(_header(in_file_order(sources))) + sum(source.size for source in sources)


def write_tensors(path: Path, tensors: Sequence[tuple[str, torch.Tensor]]) -> FileRecord:
    """Write a new safetensors file, fsynced. Tensors may be on any device; one is on the host at a time."""
    return write_sources(path, [TensorSource.of(name, tensor) for name, tensor in tensors])


def write_sources(
    path: Path, sources: Sequence[TensorSource], advance: Callable[[int], None] = lambda _: None
) -> FileRecord:
    """As `write_tensors`; each tensor is created, written and released before the next.

    Args:
        advance: called with the bytes of each tensor that is written.
    """
    if sys.byteorder != "little":
        raise ValueError("checkpoints are little-endian; this machine is not")
    ordered = in_file_order(sources)
    with DurableFile(path) as file:
        file.write(_header(ordered))
        for source in ordered:
            tensor = source.make()
            if (tuple(tensor.shape), tensor.dtype) != (source.shape, source.dtype):
                raise ValueError(f"{source.name} is {list(tensor.shape)} {tensor.dtype}, not as announced")
            if tensor.numel():
                raw = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
                file.write(raw.numpy().data)
            advance(source.size)
    return file.record


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file's header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte of the data, from the beginning of the file."""
    stop: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Parse a file's header and check it against the size of the file.

    Raises IntegrityError: the file is not safetensors, or is truncated; names the file, and says so if it is
    a pickle.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise IntegrityError(
                f"{path}: {foreign(path) or 'not a safetensors file, or cut off in its header'}"
            )
        text = file.read(length)
    try:
        table = parse_json(text)
        table.pop("__metadata__", None)
        entries = {name: _entry(value, 8 + length, size) for name, value in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path}: {foreign(path) or f'header of the safetensors file is broken: {misread(error)}'}"
        ) from error
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            what = "belong to no tensor" if entry.start > end else "belong to two tensors"
            first, last = sorted((entry.start, end))
            raise IntegrityError(f"{path}: before {name!r:.60}: bytes {first} to {last} {what}")
        end = entry.stop
    if end != size:
        raise IntegrityError(f"{path}: {size} bytes, its header speaks of {end}")
    return entries


def _entry(value: Any, base: int, size: int) -> TensorEntry:
    start, stop = (natural(n) for n in value["data_offsets"])
    shape = tuple(natural(n) for n in value["shape"])
    dtype = value["dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r:.60} is none of {', '.join(DTYPES)}")
    fits = stop <= size - base and stop - start == prod(shape) * DTYPES[dtype].itemsize
    if not fits or prod(max(n, 1) for n in shape) > LARGEST:  # torch computes strides of empty tensors too
        raise ValueError(f"data offsets [{start}, {stop}) do not fit shape {list(shape)!r:.60} of {dtype}")
    return TensorEntry(dtype, shape, base + start, base + stop)


class TensorFile:
    """A safetensors file, memory-mapped copy-on-write; tensors are views into the map."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises IntegrityError: as `read_header`."""
        self.path = path
        self.entries = read_header(path)
        # torch's own map keeps no file descriptor open, so thousands of rank files are not a problem.
        with utf8_alias(path) as name:
            self._bytes = torch.from_file(name, shared=False, size=os.stat(path).st_size, dtype=torch.uint8)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that name, without a copy. Raises IntegrityError: there is none."""
        if name not in self.entries:
            raise IntegrityError(f"{self.path}: holds no tensor {name!r}")
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        raw = self._bytes[entry.start : entry.stop]
        if entry.start % dtype.itemsize:
            raw = raw.clone()  # a view in a wider dtype needs aligned data
        return raw.view(dtype).view(entry.shape)


def foreign(path: Path) -> str | None:
    """Which forbidden kind of file this is, a pickle or a torch archive (both can carry code); else None."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":  # safetensors: the JSON header follows its 8-byte length
        return None
    if start.startswith(b"PK\x03\x04"):
        return (
            "a zip archive such as torch.save writes, which holds a pickle; not loaded, a pickle can run code"
        )
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle; not loaded, a pickle can run code"
    return None
