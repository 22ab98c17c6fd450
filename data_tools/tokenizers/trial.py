"""What a tokenizer that was made elsewhere does to texts, found out by thousands of them."""

from itertools import pairwise

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.codec import Codec, ForeignCodec, Ids
from data_tools.tokenizers.segments import stretches
from data_tools.tokenizers.trial_texts import trial_texts

SHORT = 16
"""Characters of a stretch, when it is tried whether texts can be cut."""
TELLING = ("Word", "naïve", "ﬁne", "e\u0301", "a  b\n\nc", " a")
"""Tried first, since what becomes of them is easy to understand."""


def try_out(codec: ForeignCodec) -> None:
    """Find out which texts come back, and whether long ones can be cut.

    Raises UserError if a text is encoded into an id that stands for no text.
    """
    control = [codec.roles.eod, *codec.roles.begin]
    loss, cuts = "", True
    for text in (*TELLING, *trial_texts(codec.names())):
        ids = codec.encode(text)
        if np.isin(control, ids).any():
            name = next(name for name, value in codec.roles.special.items() if value in ids)
            raise UserError(f"a text that spells {name!r} would be taken for the control token")
        if not loss and decoded(codec, ids) != text.encode():
            loss = _shown(codec, text)
        cuts = cuts and _can_be_cut(codec, text, ids.tolist())
    codec.found(loss, cuts)


def decoded(codec: Codec, ids: Ids) -> bytes:
    """The bytes of a whole text."""
    found = b"".join(codec.pieces[value] for value in ids.tolist())
    return found.removeprefix(b" ") if codec.drops_space else found


def _shown(codec: Codec, text: str) -> str:
    """What becomes of a text, by as little of it as shows it."""
    parts = [*text, *(a + b for a, b in pairwise(text)), text]
    part = next(part for part in parts if decoded(codec, codec.encode(part)) != part.encode())
    back = decoded(codec, codec.encode(part)).decode("utf-8", "replace")
    return f"{part[:40]!a} comes back as {back[:40]!a}"


def _can_be_cut(codec: Codec, text: str, ids: list[int]) -> bool:
    found = list(stretches([text], cuts=True, most=SHORT))
    return len(found) == 1 or ids == [value for part in found for value in codec.encode(part).tolist()]
