"""Folders of safetensors as transformers writes them: shards of a bounded size, and their index."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_tools.bounded import read_json
from data_tools.names import utf8_alias
from pretrain.checkpoint.tensors import DTYPES, TensorFile, TensorSource, write_sources
from pretrain.errors import IntegrityError, UserError, named

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 1 << 28
"""Bytes; the index of a model of a million tensors has half of it."""
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def write_shards(folder: Path, sources: Iterable[TensorSource], most: int, advance: Any) -> int:
    """Write tensors one by one, at most `most` bytes in a file but at least one tensor.

    Args:
        folder: where to.
        sources: in the order in which they are written.
        most: bytes of a shard.
        advance: called with the bytes of each tensor that is written.

    Returns:
        Bytes of the largest shard.
    """
    shards: list[list[TensorSource]] = [[]]
    size = 0
    for source in sources:
        if shards[-1] and size + source.size > most:
            shards.append([])
            size = 0
        shards[-1].append(source)
        size += source.size
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    if len(shards) == 1:
        names = [SINGLE]
    written = [
        write_sources(folder / name, shard, advance).size for name, shard in zip(names, shards, strict=True)
    ]
    if len(shards) > 1:
        where = {source.name: name for name, shard in zip(names, shards, strict=True) for source in shard}
        total = sum(source.size for shard in shards for source in shard)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        with named(folder / INDEX):
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return max(written)


@dataclass(frozen=True)
class FolderTensor:
    """A tensor of a folder, not yet read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it."""


class TensorFolder:
    """The tensors of a Hugging Face folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            UserError: there are no weights, or only a pickle that contains code.
            IntegrityError: a file is damaged, or differs from what the index says.
        """
        self.folder = folder
        self._loaded: Mapping[str, Tensor] = {}
        self._files: dict[Path, TensorFile] = {}
        if (folder / INDEX).is_file() or (folder / SINGLE).is_file():
            self._open(self._names())
        else:
            self._loaded = _load_pickles(folder)
        self.tensors: dict[str, FolderTensor] = {
            name: FolderTensor(path, entry.shape, entry.dtype)
            for path, file in self._files.items()
            for name, entry in file.entries.items()
        }
        for name, tensor in self._loaded.items():
            dtype = next((name for name, dtype in DTYPES.items() if dtype == tensor.dtype), str(tensor.dtype))
            self.tensors[name] = FolderTensor(folder / PICKLES[0], tuple(tensor.shape), dtype)

    def read(self, name: str) -> Tensor:
        if name in self._loaded:
            return self._loaded[name]
        return self._files[self.tensors[name].file].tensor(name)

    def _names(self) -> Mapping[str, set[str]]:
        """File -> the tensors that the index says it holds; empty without an index."""
        if not (self.folder / INDEX).is_file():
            return {SINGLE: set()}
        return _weight_map(self.folder / INDEX)

    def _open(self, names: Mapping[str, set[str]]) -> None:
        for name, promised in names.items():
            path = self.folder / name
            try:
                file = TensorFile(path)
            except OSError as error:
                raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}") from None
            if promised and (wrong := promised ^ set(file.entries)):
                held = "holds" if min(wrong) in file.entries else "does not hold"
                raise IntegrityError(f"{path}: {held} tensor {min(wrong)!r}, {INDEX} says otherwise")
            self._files[path] = file


def _weight_map(path: Path) -> Mapping[str, set[str]]:
    try:
        found = read_json(path, LARGEST_INDEX)["weight_map"]
        items = list(found.items())
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{path}: is no index of tensors") from None
    files: dict[str, set[str]] = {}
    for name, file in items:
        is_name = isinstance(file, str) and file.isprintable() and Path(file).name == file
        if not is_name or file in ("", ".", ".."):
            raise IntegrityError(f"{path}: names {ascii(file)[:60]}, which is no file of the folder")
        files.setdefault(file, set()).add(name)
    return files


def _load_pickles(folder: Path) -> Mapping[str, Tensor]:
    """Weights in torch's format, if they are nothing but tensors."""
    import torch

    single, index = (folder / name for name in PICKLES)
    if not single.is_file() and not index.is_file():
        raise UserError(f"{folder}: holds no weights; expected {SINGLE} or {INDEX}")
    names: Sequence[str] = [single.name] if single.is_file() else sorted(_weight_map(index))
    weights: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        try:
            with utf8_alias(path) as name:
                weights |= torch.load(name, map_location="cpu", weights_only=True, mmap=True)
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{path}: is a pickle that holds more than tensors, or damaged: not loaded, a pickle can run "
                f"code ({reason}); convert it to safetensors where it comes from"
            ) from None
    if strange := [name for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{folder}: {strange[0]!r} is no tensor")
    return weights
