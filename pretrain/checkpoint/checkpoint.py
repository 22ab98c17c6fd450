"""Reads a checkpoint: assembles any shard for any parallel dims from the shards that were written."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_tools.bounded import parse_json
from data_tools.counts import counted
from data_tools.typed import misread
from pretrain.checkpoint import index as index_file
from pretrain.checkpoint.geometry import Extent, overlap
from pretrain.checkpoint.index import Index, LogicalTensor
from pretrain.checkpoint.layout import INDEX, MANIFEST, STATE
from pretrain.checkpoint.manifest import Manifest, read_manifest
from pretrain.checkpoint.sharded_tensor import Group, ShardedTensor
from pretrain.checkpoint.tensors import DTYPES, TensorFile, dtype_name
from pretrain.errors import IntegrityError, UserError

_OPEN_FILES = 64
T = TypeVar("T")


def copy_overlap(source: torch.Tensor, of: Extent, target: torch.Tensor, into: Extent) -> int:
    """Copy the elements that both extents cover from one tensor to the other, in place.

    Args:
        source: shape `of.shape`, or [of.size] where `of` is a range.
        of: what `source` covers of the logical tensor.
        target: shape `into.shape`, or [into.size] where `into` is a range.
        into: what `target` covers of it.

    Returns:
        Number of elements copied.
    """
    if (of.offset, of.shape) == (into.offset, into.shape):
        if of.flat is None and into.flat is None:
            target.copy_(source)
            return into.size
        start, stop = max(of.range[0], into.range[0]), min(of.range[1], into.range[1])
        if start >= stop:
            return 0
        if target.is_contiguous():
            a, b = of.range[0], into.range[0]
            target.view(-1)[start - b : stop - b].copy_(source.view(-1)[start - a : stop - a])
            return stop - start
    copied = 0
    for a_region in of.regions():
        chunk = source.view(-1)[a_region.start : a_region.start + a_region.size].view(a_region.shape)
        for b_region in into.regions():
            if (common := overlap(a_region, b_region)) is None:
                continue
            in_source, in_target, size = common
            # A complete box is one region and may have any strides; a flat range is contiguous but has
            # several regions, so each is reshaped on its own.
            view = target
            if into.flat is not None:
                view = target[b_region.start : b_region.start + b_region.size].view(b_region.shape)
            view[in_target].copy_(chunk[in_source])
            copied += size
    return copied


class Checkpoint:
    """A checkpoint folder, open for reading. Its structure is checked; `verify` checks its contents."""

    def __init__(self, path: Path | str) -> None:
        """Open a step folder. Raises IntegrityError: the manifest is missing, or manifest, index or state is
        damaged."""
        self.path = Path(path)
        self._manifest: Manifest = read_manifest(self.path)
        self.index: Index = index_file.parse(self.file(INDEX), str(self.path / INDEX))
        self.state: Mapping[str, Any] = self._read_state()
        self._files: OrderedDict[str, TensorFile] = OrderedDict()

    @property
    def step(self) -> int:
        return self._manifest.step

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of all files: equal fingerprints mean equal checkpoints."""
        return self._manifest.fingerprint

    @cached_property
    def config_text(self) -> str:
        """The resolved config of the run that wrote it; the user's config if no resolved one was stored.

        Raises IntegrityError: it holds neither.
        """
        name = "config.resolved.yaml" if "config.resolved.yaml" in self._manifest.files else "config.yaml"
        return self.file(name).decode()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file except the manifest, relative to the checkpoint."""
        return tuple(sorted(self._manifest.files))

    def file(self, name: str) -> bytes:
        """Content of one of `files`.

        Raises IntegrityError: the checkpoint does not hold it, or it cannot be read.
        """
        if name not in self._manifest.files:
            raise IntegrityError(f"{self.path}: holds no {name}; it holds {', '.join(self.files)}")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise IntegrityError(f"{self.path / name}: cannot be read: {error.strerror}") from None

    def keys(self, group: Group | None = None) -> tuple[str, ...]:
        """Logical names of the tensors of a group, or of all."""
        return tuple(key for key, tensor in self.index.items() if group in (None, tensor.group))

    def read(self, key: str) -> torch.Tensor:
        """One complete logical tensor, as a new tensor on the CPU. Raises UserError: there is no such
        tensor."""
        tensor = self._find(key, "")
        shard = ShardedTensor.whole(key, torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype]), tensor.group)
        self.load([shard])
        return shard.tensor

    def load(self, shards: Iterable[ShardedTensor]) -> None:
        """Fill the tensor of every shard in place, whatever parallel dims the checkpoint was written on.

        Raises:
            UserError: a tensor is not in the checkpoint, or has another shape or dtype; names both. Nothing
                is copied then.
            IntegrityError: the files are not as the index says.
        """
        wanted = list(shards)
        for shard in wanted:
            self._match(shard)
        with torch.no_grad():
            for shard in wanted:
                self._fill(shard)

    def require_all_read(self, keys: Iterable[str], group: Group | None = None) -> None:
        """Refuse a model that leaves out part of the checkpoint; `keys` are the requests of all ranks
        together.

        Raises UserError: names the tensors that no rank requested.
        """
        asked = set(keys)
        if left := [key for key in self.keys(group) if key not in asked]:
            names = ", ".join(f"{key} {self.index[key].describe}" for key in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise UserError(
                f"{self.path}: holds {counted(len(left), 'tensor')} that the model has not: {names}{more}; "
                "the checkpoint is of another model, compare its config.yaml with the run's"
            )

    def require_data(self, fingerprint: str, what: str = "data") -> None:
        """Refuse to resume with other training data than the checkpoint's.

        Args:
            fingerprint: of the samples and their order that `data.train` gives now.

        Raises:
            UserError: the checkpoint has a different one.
        """
        saved = self.state.get("data_fingerprint")
        if saved != fingerprint:
            raise UserError(
                f"{self.path}: was trained on other {what}: fingerprint {str(saved)[:16]}, data.train has "
                f"{fingerprint[:16]}; going on would repeat or lose samples. Give the shards back, or choose "
                "another run.dir"
            )

    def part(self, key: str, parse: Callable[[Any], T]) -> T:
        """The value of a key of the state.

        Args:
            key: of `state`.
            parse: converts and validates the value, or raises ValueError, KeyError or TypeError.

        Raises:
            IntegrityError: it is missing or invalid.
        """
        if key not in self.state:
            raise IntegrityError(f"{self.path / STATE}: has no {key}")
        try:
            return parse(self.state[key])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{self.path / STATE}: {key}: {misread(error)}") from None

    def _read_state(self) -> Mapping[str, Any]:
        try:
            state = parse_json(self.file(STATE))
        except ValueError as error:
            raise IntegrityError(f"{self.path / STATE}: not JSON: {error}") from None
        if not isinstance(state, dict):
            raise IntegrityError(f"{self.path / STATE}: not a JSON object")
        if state.get("step", self.step) != self.step:
            raise IntegrityError(
                f"{self.path / STATE}: step: is {ascii(state['step'])[:60]}, and {MANIFEST} says {self.step}"
            )
        return state

    def _find(self, key: str, asked: str) -> LogicalTensor:
        if key not in self.index:
            near = difflib.get_close_matches(key, self.index, n=1)
            hint = f"; the nearest it holds is {near[0]} {self.index[near[0]].describe}" if near else ""
            raise UserError(f"{self.path}: holds no tensor {key}{asked}{hint}")
        return self.index[key]

    def _match(self, shard: ShardedTensor) -> None:
        asked = f"{list(shard.global_shape)} {dtype_name(shard.tensor.dtype)}"
        tensor = self._find(shard.key, f", which the model has as {asked}")
        if (tensor.shape, tensor.dtype) != (shard.global_shape, dtype_name(shard.tensor.dtype)):
            what = "shape" if tensor.shape != shard.global_shape else "dtype"
            raise UserError(
                f"{self.path}: {shard.key} is {tensor.describe} in the checkpoint and {asked} in the model: "
                f"the {what} differs, so it is of another model or precision"
            )

    def _fill(self, shard: ShardedTensor) -> None:
        target, extent, copied = shard.tensor.detach(), shard.extent, 0
        for stored in self.index[shard.key].shards:
            if not _may_meet(stored.extent, extent):
                continue
            source = self._open(stored.file).tensor(stored.name)
            expected = stored.extent.shape if stored.extent.flat is None else (stored.extent.size,)
            if tuple(source.shape) != expected or source.dtype != target.dtype:
                found = f"{list(source.shape)} {dtype_name(source.dtype)}"
                raise IntegrityError(
                    f"{self.path / stored.file}: {stored.name} is {found}, {INDEX} says otherwise"
                )
            copied += copy_overlap(source, stored.extent, target, extent)
        if copied != extent.size:
            raise IntegrityError(
                f"{self.path}: {shard.name}: {extent.size - copied} of {extent.size} elements are in no file"
            )

    def _open(self, name: str) -> TensorFile:
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        try:
            self._files[name] = TensorFile(self.path / name)
        except OSError as error:
            raise IntegrityError(f"{self.path / name}: cannot be read: {error.strerror or error}") from None
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)
        return self._files[name]


def _may_meet(a: Extent, b: Extent) -> bool:
    """Whether the boxes of two extents may overlap; a cheap test that skips files without relevant data."""
    if (a.offset, a.shape) == (b.offset, b.shape):
        return a.range[0] < b.range[1] and b.range[0] < a.range[1]
    return all(
        p < q + m and q < p + n for p, n, q, m in zip(a.offset, a.shape, b.offset, b.shape, strict=True)
    )


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a step folder for reading; `resolve` finds and verifies it first.

    Raises IntegrityError: no manifest, or a damaged manifest, index or state.
    """
    return Checkpoint(path)
