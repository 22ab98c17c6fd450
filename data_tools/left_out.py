"""What a command found and did not read: counts and bytes by ending; refused if it is more than what was
read."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from data_tools.errors import UserError, printable
from data_tools.progress import amount

HIDDEN, METADATA, BESIDE = "hidden", "metadata", " beside pictures"
"""Kinds that nobody means to be read, whatever their size; the last one is the end of a kind's name."""
PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
LONGEST_ENDING, SHOWN = 16, 10


@dataclass
class LeftOut:
    """Files of folders, or members of tars: their number and bytes by ending."""

    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, kind: str, size: int, count: int = 1) -> None:
        files, total = self.kinds.get(kind, (0, 0))
        self.kinds[kind] = (files + count, total + size)

    @property
    def files(self) -> int:
        return sum(count for count, _ in self.kinds.values())

    @property
    def bytes(self) -> int:
        """Bytes that the user may have meant to be read."""
        return sum(
            size
            for kind, (_, size) in self.kinds.items()
            if kind not in (HIDDEN, METADATA) and not kind.endswith(BESIDE)
        )

    def __str__(self) -> str:
        """Each kind with count and bytes, the largest first."""
        ordered = sorted(self.kinds.items(), key=lambda item: (-item[1][1], item[0]))
        shown = [f"{count:,} {kind} ({amount(size, 'B')})" for kind, (count, size) in ordered[:SHOWN]]
        if len(ordered) > SHOWN:
            shown.append(f"and {len(ordered) - SHOWN:,} more endings")
        return ", ".join(shown)


def together(each: Iterable[LeftOut]) -> LeftOut:
    total = LeftOut()
    for left_out in each:
        for kind, (count, size) in left_out.kinds.items():
            total.add(kind, size, count)
    return total


def ending_of(name: str) -> str:
    """The ending of a file's name, including the ending before that of a compression."""
    stem, ending = os.path.splitext(os.path.basename(name).lower())
    if ending in PACKED:
        ending = os.path.splitext(stem)[1] + ending
    plain = 1 < len(ending) <= LONGEST_ENDING and " " not in ending
    return printable(ending) if plain else "without an ending"


def is_hidden(path: str) -> bool:
    """Whether a part of a path below an input is hidden, or metadata that macOS packs beside files."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in path.split("/")
    )


def check_left_out(left_out: LeftOut, read: int, allowed: bool) -> None:
    """Raise UserError where more bytes were left out than read, unless that is `allowed`."""
    if left_out.bytes > read and not allowed:
        raise UserError(
            f"--input: {amount(left_out.bytes, 'B')} are left out, more than the {amount(read, 'B')} that "
            f"are read: {left_out}; name what is meant (a glob, --input-format of text), or --allow-left-out"
        )
