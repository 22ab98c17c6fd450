"""Where a long text may be cut before it is encoded, so that memory stays bounded."""

import re
from collections.abc import Callable, Iterable, Iterator

from data_tools.errors import UserError

SEGMENT_CHARACTERS = 512
STRETCH_CHARACTERS = 1 << 16
LONGEST_TEXT = 1 << 26
"""Characters of a text that must be encoded whole: it takes some GB."""
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")


def segments(parts: Iterable[str]) -> Iterator[str]:
    """Cut a text, which may arrive in parts, into segments of at most `SEGMENT_CHARACTERS`.

    A segment ends after the last newline within the limit, else before the last space that follows another
    character, else (one endless word) at the limit. The cuts do not depend on how the text was divided into
    parts.
    """
    return _cut_by(parts, _cut, SEGMENT_CHARACTERS)


def stretches(parts: Iterable[str], *, cuts: bool, most: int = STRETCH_CHARACTERS) -> Iterator[str]:
    """A text in stretches that end before a space between two letters.

    Args:
        parts: the text.
        cuts: whether it may be cut there; else it stays whole.
        most: characters after which the next such space ends a stretch.

    Raises:
        UserError: more than `LONGEST_TEXT` characters must stay together.
    """

    def end_of(text: str, start: int) -> int | None:
        found = _BETWEEN_LETTERS.search(text, start + most) if cuts else None
        if found is None and len(text) - start > LONGEST_TEXT:
            raise UserError(
                f"a document has more than {LONGEST_TEXT:,} characters that this tokenizer can only encode "
                "together; divide it"
            )
        return found and found.start()

    return _cut_by(parts, end_of, most)


def _cut_by(parts: Iterable[str], end_of: Callable[[str, int], int | None], most: int) -> Iterator[str]:
    """Pieces of a text that end where `end_of` says, for a text that goes on for more than `most`; None: read
    on."""
    buffer, position = "", 0
    for part in parts:
        buffer, position = buffer[position:] + part, 0
        while len(buffer) - position > most:
            end = end_of(buffer, position)
            if end is None:
                break
            yield buffer[position:end]
            position = end
    if position < len(buffer):
        yield buffer[position:]


def _cut(text: str, start: int) -> int:
    limit = start + SEGMENT_CHARACTERS
    newline = text.rfind("\n", start, limit)
    if newline >= start:
        return newline + 1
    space = text.rfind(" ", start + 1, limit)
    while space > start and text[space - 1] == " ":
        space -= 1
    return space if space > start else limit
