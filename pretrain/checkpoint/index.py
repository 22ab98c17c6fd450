"""`index.json`: every logical tensor of a checkpoint, and which file each of its shards is in."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data_tools.bounded import parse_json
from data_tools.typed import misread, natural
from pretrain.checkpoint.geometry import Extent, Shape, tiling_fault
from pretrain.checkpoint.sharded_tensor import GROUPS, Group
from pretrain.checkpoint.tensors import DTYPES
from pretrain.errors import IntegrityError

FORMAT = "pretrain-checkpoint-index"
VERSION = 1


@dataclass(frozen=True)
class StoredShard:
    """A shard of a logical tensor in a file."""

    file: str
    name: str
    extent: Extent

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "name": self.name,
            "offset": list(self.extent.offset),
            "shape": list(self.extent.shape),
            "flat": None if self.extent.flat is None else list(self.extent.flat),
        }

    @classmethod
    def from_json(cls, value: Any) -> "StoredShard":
        """Inverse of `to_json`; raises ValueError, KeyError or TypeError for anything else."""
        flat = value["flat"]
        start_stop = None if flat is None else _ints(flat)
        if start_stop is not None and len(start_stop) != 2:
            raise ValueError(f"flat is {flat!r:.60}")
        extent = Extent(_ints(value["offset"]), _ints(value["shape"]), start_stop)
        return cls(_text(value["file"]), _text(value["name"]), extent)


@dataclass(frozen=True)
class LogicalTensor:
    """One tensor of the model or the optimizer, independent of the parallel dims."""

    key: str
    shape: Shape
    dtype: str
    """Name in safetensors, such as F32."""
    group: Group
    shards: tuple[StoredShard, ...]

    @property
    def describe(self) -> str:
        """Readable form, such as `[128, 64] F32`."""
        return f"{list(self.shape)} {self.dtype}"

    def to_json(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "group": self.group,
            "pieces": [shard.to_json() for shard in self.shards],
        }

    @classmethod
    def from_json(cls, key: str, value: Any) -> "LogicalTensor":
        """Inverse of `to_json`; raises ValueError, KeyError or TypeError for anything else."""
        if value["dtype"] not in DTYPES or value["group"] not in GROUPS:
            raise ValueError(f"dtype {value['dtype']!r:.60} or group {value['group']!r:.60} is not known")
        shards = tuple(StoredShard.from_json(shard) for shard in value["pieces"])
        return cls(key, _ints(value["shape"]), value["dtype"], value["group"], shards)


def _ints(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("a shape or an offset is no list")
    return tuple(natural(number) for number in value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{ascii(value)[:60]} is no name")
    return value


Index = Mapping[str, LogicalTensor]


def merge(parts: Iterable[tuple[str, Index]]) -> dict[str, LogicalTensor]:
    """One index from what each writer wrote (its name is for the message); every element must be in exactly
    one shard.

    Raises IntegrityError: writers disagree on a tensor, or its shards leave a hole or overlap. That is a bug
    in the description of the shards, and must not become a checkpoint.
    """
    merged: dict[str, LogicalTensor] = {}
    shards: dict[str, list[StoredShard]] = {}
    for writer, part in parts:
        for key, tensor in part.items():
            known = merged.setdefault(key, tensor)
            if (known.shape, known.dtype, known.group) != (tensor.shape, tensor.dtype, tensor.group):
                raise IntegrityError(
                    f"checkpoint not written: {key} is {tensor.describe} ({tensor.group}) on {writer}, "
                    f"{known.describe} ({known.group}) on another rank"
                )
            shards.setdefault(key, []).extend(tensor.shards)
    index = {
        key: LogicalTensor(key, tensor.shape, tensor.dtype, tensor.group, tuple(shards[key]))
        for key, tensor in sorted(merged.items())
    }
    if fault := coverage_fault(index):
        raise IntegrityError(f"checkpoint not written: {fault}")
    return index


def coverage_fault(index: Index) -> str | None:
    """The first logical tensor whose shards do not tile it, and where; None if all do."""
    for key, tensor in index.items():
        if fault := tiling_fault(tensor.shape, [shard.extent for shard in tensor.shards]):
            files = ", ".join(sorted({shard.file for shard in tensor.shards})[:4]) or "no file"
            return f"{key} {tensor.describe}: {fault} (shards in {files})"
    return None


def dump(index: Index) -> bytes:
    tensors = {key: tensor.to_json() for key, tensor in index.items()}
    return (
        json.dumps({"format": FORMAT, "format_version": VERSION, "tensors": tensors}, indent=0).encode()
        + b"\n"
    )


def parse(text: bytes, where: str) -> dict[str, LogicalTensor]:
    """Read index.json.

    Raises IntegrityError: it is not one, has another version, or names a file outside the checkpoint.
    """
    try:
        value = parse_json(text)
        if value["format"] != FORMAT or value["format_version"] != VERSION:
            found = f"{value['format']!r:.60} version {value['format_version']!r:.60}"
            raise IntegrityError(f"{where}: is {found}; this program reads {FORMAT} version {VERSION}")
        index = {key: LogicalTensor.from_json(key, item) for key, item in value["tensors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{where}: not an index of a checkpoint: {misread(error)}") from error
    for key, tensor in index.items():
        for shard in tensor.shards:
            if PurePosixPath(shard.file).name != shard.file or shard.file in ("", "..", "."):
                raise IntegrityError(
                    f"{where}: {key!r:.60} lies in {shard.file!r:.60}, which is no file of the checkpoint"
                )
    return index
