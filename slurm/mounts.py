"""What a container of a job mounts: every local path in the job's config, under its own name."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from data_tools.sources import is_remote
from pretrain.config.database_uri import database_path
from pretrain.config.sections import Config, Section, SlurmConfig
from pretrain.config.sections.section import PathText

MADE = ("cache_dir", "output")
"""Keys of folders that a job creates if they do not exist yet."""
MEANT = {"pyxis": ',:"$`', "apptainer": ",:^"}
"""Characters with a special meaning in a mount path, which the container programs have no way to quote. pyxis
writes the path into a bash script, in quotation marks (pyxis_slurmstepd.c); apptainer parses it with a
pattern in which ^ is not part of a path (pkg/util/bind)."""


@dataclass(frozen=True)
class NamedPath:
    """A path that a config names."""

    key: str
    path: Path
    """Absolute."""
    is_made: bool = False
    """The job creates it if it does not exist."""


@dataclass(frozen=True)
class Mounts:
    """What is mounted, and what cannot be."""

    texts: tuple[str, ...]
    """One SOURCE:TARGET per mount."""
    refused: tuple[tuple[str, str], ...]
    """Key and why."""


def named_paths(section: Section, before: str = "") -> Iterator[NamedPath]:
    """Every local path in a section and its subsections, except `slurm`, whose paths are for the host.

    Args:
        section: a complete config, or a part of one.
        before: prefix of its keys, such as "data.".
    """
    hints = get_type_hints(type(section), include_extras=True)
    for name in type(section).model_fields:
        key, value = f"{before}{name}", getattr(section, name)
        if key == "slurm":
            continue
        values = value if isinstance(value, tuple) else (value,)
        for number, each in enumerate(values):
            if isinstance(each, Section):
                yield from named_paths(each, f"{key}{f'[{number}]' if values is value else ''}.")
            elif isinstance(each, str) and _is_path(hints[name]) and not is_remote(each):
                yield NamedPath(key, Path(each).absolute(), name in MADE)
            elif isinstance(each, str) and name == "uri" and (database := database_path(each)):
                yield NamedPath(key, database.absolute().parent, is_made=True)


def _is_path(hint: object) -> bool:
    """Whether a type is `PathText`, also where more is said of it, or holds it."""
    said = getattr(hint, "__metadata__", ())
    return get_args(PathText)[1] in said or any(_is_path(each) for each in get_args(hint))


def training_mounts(config: Config) -> Mounts:
    """What a container of a training mounts: working directory, run folder, and what the config names."""
    own = (("", Path.cwd()), ("run.dir", Path(config.run.dir).absolute()))
    return container_mounts(config.slurm, own, named_paths(config))


def container_mounts(
    slurm: SlurmConfig, own: Iterable[tuple[str, Path]], named: Iterable[NamedPath]
) -> Mounts:
    """The config's mounts, and what the job needs in addition; nothing without a container.

    Args:
        own: key and folder, for those that exist when the job is submitted.
        named: what the config names. For a folder that the job will make, the nearest existing parent is
            mounted. Paths that do not exist are omitted; other checks report them.
    """
    if slurm.container == "none":
        return Mounts((), ())
    texts = [text if ":" in text else f"{text}:{text}" for text in slurm.container_mounts]
    seen = [Path(text.split(":")[1]) for text in texts]
    refused: list[tuple[str, str]] = []
    ours = [(key, each) for key, path in own for each in (path, path.resolve())]
    asked = [each for each in named if each.path.exists() or not _is_in(each.path, seen)]
    for key, path in (*ours, *_parts(asked)):
        if _is_in(path, seen):
            continue
        seen.append(path)
        if path == Path(path.anchor):
            text = "no folder above it but / is there to be mounted; make it, or name one that holds it"
            refused.append((key, f"{text} in slurm.container_mounts"))
        elif found := [letter for letter in MEANT[slurm.container] if letter in str(path)]:
            text = f"{slurm.container} cannot mount a path with {found[0]!r} in it: {path}; rename it"
            refused.append((key, text))
        elif slurm.container == "apptainer" and str(path) != str(path).strip():
            refused.append(
                (key, f"apptainer cannot mount a path that ends in a blank: {str(path)!r}; rename it")
            )
        else:
            texts.append(f"{path}:{path}")
    return Mounts(tuple(dict.fromkeys(texts)), tuple(refused))


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _parts(named: Iterable[NamedPath]) -> Iterator[tuple[str, Path]]:
    """Folders and files to mount for paths: under the name that is used, and where links lead."""
    for each in named:
        path = each.path
        while each.is_made and not path.exists() and path != path.parent:
            path = path.parent
        if not path.exists():
            continue
        yield each.key, path
        yield each.key, path.resolve()
        if path.is_dir():
            yield from ((each.key, target) for target in _linked(path))


def _linked(folder: Path) -> Iterator[Path]:
    """The folders that the links in a folder lead to."""
    with suppress(OSError), os.scandir(folder) as entries:
        targets = {Path(entry.path).resolve() for entry in entries if entry.is_symlink()}
        yield from sorted(
            {target if target.is_dir() else target.parent for target in targets if target.exists()}
        )
