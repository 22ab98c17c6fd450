"""What one rank writes of a checkpoint, and what rank 0 adds to publish it.

Order of a save: every rank writes and fsyncs its files into `.tmp-step-...`; rank 0 adds index, state, config
and, last, the manifest; fsyncs the folder; renames it to `step-...`; fsyncs the parent; replaces `latest`. A
kill at any moment leaves either the old checkpoints as they were, or those and a complete new one.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from data_tools.atomic import sync_folder, write_atomically
from pretrain.checkpoint.files import (
    FileRecord,
    copy_durably,
    remove,
    walk,
    write_durably,
)
from pretrain.checkpoint.index import LogicalTensor, StoredShard, dump, merge
from pretrain.checkpoint.layout import INDEX, LATEST, MANIFEST, OWN_FILES, STATE, step_name, suspect_since
from pretrain.checkpoint.manifest import dump_manifest, name_problem
from pretrain.checkpoint.sharded_tensor import GROUPS, ShardedTensor
from pretrain.checkpoint.tensors import dtype_name, file_size, write_tensors
from pretrain.redact import opener_for

OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class SaveJob:
    """Everything that a rank contributes to a save; it does not change while it is written."""

    step: int
    shards: tuple[ShardedTensor, ...]
    """The shards that this rank owns."""
    state: bytes
    """Content of state.json; rank 0's is written."""
    files: Mapping[str, bytes | Path]
    """Further files by relative name: content, or a file or folder to copy; rank 0's are written."""
    refusal: OSError | None = None
    """What fails the save before it begins, on rank 0: a file that had to be written first could not be."""

    @classmethod
    def of(
        cls, step: int, shards: Sequence[ShardedTensor], state: bytes, files: Mapping[str, bytes | Path]
    ) -> "SaveJob":
        """Keep the non-empty shards that the rank owns; check the names of the files.

        Raises ValueError: a file's name is not allowed in a checkpoint.
        """
        for name in files:
            problem = "which is written by the save itself" if name in OWN_FILES else name_problem(name)
            if problem or name.endswith(".safetensors"):
                raise ValueError(f"cannot store {name!r}, {problem or 'which looks like a file of tensors'}")
        owned = tuple(p for p in shards if p.owner and (p.extent.size or not prod(p.global_shape)))
        return cls(step, owned, state, files)

    def bytes_needed(self, leads: bool) -> int:
        """Bytes that this rank will write; if it `leads`, plus a generous estimate for rank 0's own files."""
        size = sum(file_size(_named(shards)) for shards in self._groups().values())
        size += sum(400 + 2 * len(shard.name) for shard in self.shards)  # its entries in index.json
        if leads:
            size += len(self.state) + (64 << 10) + sum(_size(source) for source in self.files.values())
        return size

    def _groups(self) -> dict[str, list[ShardedTensor]]:
        by_group = {group: [shard for shard in self.shards if shard.group == group] for group in GROUPS}
        return {group: shards for group, shards in by_group.items() if shards}


def _named(shards: Sequence[ShardedTensor]) -> list[tuple[str, Any]]:
    return [(shard.name, shard.tensor) for shard in shards]


def _size(source: bytes | Path) -> int:
    if isinstance(source, bytes):
        return len(source)
    return sum(path.stat().st_size for path in (walk(source) if source.is_dir() else [source]))


@dataclass(frozen=True)
class WrittenFiles:
    """Files and tensors that a rank wrote."""

    files: Mapping[str, FileRecord]
    tensors: Mapping[str, LogicalTensor]

    def to_json(self) -> dict[str, Any]:
        return {
            "files": {name: [record.size, record.sha256] for name, record in self.files.items()},
            "tensors": {key: tensor.to_json() for key, tensor in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> "WrittenFiles":
        files = {name: FileRecord(size, digest) for name, (size, digest) in value["files"].items()}
        tensors = {key: LogicalTensor.from_json(key, item) for key, item in value["tensors"].items()}
        return cls(files, tensors)


def write_shards(folder: Path, rank: int, job: SaveJob, on_event: OnEvent) -> WrittenFiles:
    """Write this rank's tensors into `folder`, one file per group, fsynced."""
    files: dict[str, FileRecord] = {}
    tensors: dict[str, LogicalTensor] = {}
    on_event("before-files")
    for group, shards in job._groups().items():
        if files:
            on_event("between-files")
        name = f"{group}-rank-{rank:04d}.safetensors"
        files[name] = write_tensors(folder / name, _named(shards))
        for shard in shards:
            stored = (StoredShard(name, shard.name, shard.extent),)
            known = tensors.get(shard.key)
            before = known.shards if known else ()
            tensors[shard.key] = LogicalTensor(
                shard.key, shard.global_shape, dtype_name(shard.tensor.dtype), shard.group, before + stored
            )
    on_event("after-files")
    return WrittenFiles(files, tensors)


def complete(folder: Path, job: SaveJob, written: Mapping[int, WrittenFiles], on_event: OnEvent) -> int:
    """Add rank 0's files and, last, the manifest to what the ranks wrote.

    Returns:
        Bytes of the whole checkpoint.

    Raises:
        IntegrityError: the shards do not cover every tensor exactly once.
    """
    index = merge((f"rank {rank}", part.tensors) for rank, part in written.items())
    files = {name: record for part in written.values() for name, record in part.files.items()}
    files[INDEX] = write_durably(folder / INDEX, dump(index))
    files[STATE] = write_durably(folder / STATE, job.state)
    for name, source in job.files.items():
        files.update(_store(folder, name, source))
    on_event("before-manifest")
    manifest = write_durably(folder / MANIFEST, dump_manifest(job.step, files))
    for parent in sorted({(folder / name).parent for name in files} | {folder}, reverse=True):
        sync_folder(parent)
    return manifest.size + sum(record.size for record in files.values())


def _store(folder: Path, name: str, source: bytes | Path) -> dict[str, FileRecord]:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        opener = opener_for(source.decode(errors="replace"))
        return {name: write_durably(target, source, opener)}
    if not source.is_dir():
        return {name: copy_durably(source, target)}
    stored = {}
    for path in walk(source):
        inner = f"{name}/{path.relative_to(source).as_posix()}"
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        stored[inner] = copy_durably(path, folder / inner)
    return stored


def publish(temporary: Path, step: int, on_event: OnEvent) -> list[str]:
    """Give a complete folder its name, and point `latest` at it unless updates are being skipped.

    Returns:
        Messages about what could not be done after the checkpoint was published.
    """
    folder, name = temporary.parent, step_name(step)
    target = folder / name
    on_event("before-rename")
    aside = None
    if target.exists() or target.is_symlink():
        # This step was saved before: the run has gone back since, or that checkpoint is damaged. `clean`
        # gives the old one its name back if we die between the two renames.
        aside = folder / f".old-{name}-{secrets.token_hex(4)}"
        target.rename(aside)
        sync_folder(folder)
        on_event("during-replace")
    try:
        temporary.rename(target)
    except OSError:
        if aside:
            aside.rename(target)
        raise
    sync_folder(folder)
    on_event("before-latest")
    messages = []
    try:
        if suspect_since(target) is None:
            write_atomically(folder / LATEST, f"{name}\n")
        if aside:
            remove(aside)
    except OSError as error:
        messages.append(f"{target} is saved, but tidying up after it failed: {error.strerror or error}")
    return messages


def require_space(folder: Path, step: int, needed: int) -> None:
    """Refuse a save that would not fit on disk.

    Raises OSError: less than `needed` bytes are free on the file system of `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"step {step} needs {readable(needed)}, {folder} has {readable(free)} free")


def readable(size: int) -> str:
    """Bytes in the largest decimal unit that leaves at least one digit before the point."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} B"
