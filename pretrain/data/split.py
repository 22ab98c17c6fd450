"""Where a source is split into a training and a validation part.

The validation part is at the end. The split is at the document start nearest to the requested fraction if
that leaves a whole sequence on both sides, so that no document is in both parts; a source with only one
document is split at the token.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from pretrain.errors import UserError


def cut_position(
    path: str,
    tokens: int,
    fraction: float,
    sequence_length: int,
    nearest_document_start: Callable[[int], int],
) -> int:
    """The split: training has tokens [0, cut), validation [cut, tokens).

    Raises UserError naming `path` when a side cannot hold one sequence and its last label.
    """
    share = Fraction(str(float(fraction)))  # the decimal as written: 0.1 is exactly a tenth
    asked = math.floor(tokens * (1 - share))
    least, most = sequence_length + 1, tokens - sequence_length - 1
    if not least <= asked <= most:
        raise UserError(
            f"{path}: data.validation_fraction {fraction} of {tokens:,} tokens leaves {asked:,} to train and "
            f"{tokens - asked:,} to validate on; both need batch.sequence_length + 1 = {least:,}"
            + _remedy(tokens, least, most)
        )
    at_document = nearest_document_start(asked)
    return at_document if least <= at_document <= most else asked


def _remedy(tokens: int, least: int, most: int) -> str:
    if least > most:
        return f"; the longest sequence_length that can be split so is {tokens // 2 - 1:,}"
    smallest, largest = (tokens - most) / tokens, (tokens - least) / tokens
    return f"; fractions from {smallest:.6f} to {largest:.6f} fit"
