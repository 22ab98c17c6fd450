"""Keys of documents: two documents with an equal key are duplicates.

Each is 128 bits: one of the whole text, and one of each MinHash band, which two near duplicates share with a
probability that depends on their similarity. A partition's keys are stored band by band, each in ascending
order.
"""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig

from data_tools.clean.judge import Words
from data_tools.clean.options import CleanOptions

KEY_BYTES = 16
SHINGLES_AT_ONCE = 4096

Keys = npt.NDArray[np.uint64]


class _Signature(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's MinHash of 5-word shingles, a few at a time: the original takes gigabytes for a long
    document."""

    def get_signature(self, shingles: Keys) -> list[list[int]]:
        some = range(0, len(shingles), SHINGLES_AT_ONCE)
        parts = [super(_Signature, self).get_signature(shingles[i : i + SHINGLES_AT_ONCE]) for i in some]
        least: list[list[int]] = np.min(np.array(parts, np.uint64), axis=0).tolist()
        return least


class DocumentKeys:
    """Computes the keys of documents; the same on every machine."""

    def __init__(self, options: CleanOptions, folder: Path) -> None:
        self._exact = options.exact
        self._bands = options.bands if options.near else 0
        config = MinhashConfig(
            num_buckets=options.bands, hashes_per_bucket=options.rows, hash_config=HashConfig(hash_fc="sha1")
        )
        self._signature = _Signature(str(folder), config, language=Words())

    def of(self, text: str) -> bytes:
        """All keys of a text, concatenated."""
        whole = hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()
        return whole * self._exact + b"".join(self._near(text, whole))

    def _near(self, text: str, whole: bytes) -> list[bytes]:
        if not self._bands:
            return []
        shingles = self._signature.get_shingles(text)
        if not len(shingles):  # fewer words than a shingle: only an identical text is a duplicate
            return [whole] * self._bands
        rows = self._signature.get_signature(shingles)
        return [
            hashlib.blake2b(np.array(row, "<u8").tobytes(), digest_size=KEY_BYTES).digest() for row in rows
        ]


def sorted_keys(raw: bytes | bytearray, bands: int) -> Keys:
    """The output of `DocumentKeys.of`, document after document, as [3, bands, documents].

    The rows are the two halves of a key and the document's number; each band is sorted by key.
    """
    keys = np.frombuffer(raw, "<u8").reshape(-1, bands, 2)
    stored = np.empty((3, bands, len(keys)), np.uint64)
    for band in range(bands):
        order = np.lexsort((keys[:, band, 1], keys[:, band, 0]))
        stored[:2, band], stored[2, band] = keys[order, band].T, order
    return stored


def band_count(options: CleanOptions) -> int:
    """Keys per document. The first is of the whole text, if exact duplicates are looked for."""
    return options.exact + (options.bands if options.near else 0)
