"""The most frequent token of some text: the best guess without looking, and the baseline of MLM accuracy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pretrain.data.sources import TokenRange

MOST = 1 << 22
"""Tokens that are counted, shared among the sources."""
RUN = 1 << 16


def most_frequent_token(sources: Sequence[TokenRange], special: npt.NDArray[np.bool_]) -> int:
    """The id that occurs most often at the beginnings of these sources; the smallest if several do.

    Args:
        sources: of one tokenizer.
        special: [vocabulary], ids that are never predicted.
    """
    counts = np.zeros(len(special), np.int64)
    for source in sources:
        stop = min(source.stop, source.start + MOST // len(sources))
        for start in range(source.start, stop, RUN):
            ids = source.reader.read(start, min(stop, start + RUN))
            counts += np.bincount(ids[ids < len(special)], minlength=len(special))
    return int(np.where(special, -1, counts).argmax())
