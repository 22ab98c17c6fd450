"""An image file from the input, undecoded."""

from dataclasses import dataclass

MAX_BYTES = 256 << 20
"""Of one image file; anything larger is a bad record."""


@dataclass(frozen=True)
class Picture:
    """An image file's bytes; `where` is as in `BadRecord`. `label` None: it has no class."""

    file: str
    where: str
    data: bytes
    label: str | None


def too_large(size: int) -> str:
    """The reason for a bad record: the file is larger than `MAX_BYTES`."""
    return f"{size:,} bytes, more than the {MAX_BYTES:,} that one image may have"
