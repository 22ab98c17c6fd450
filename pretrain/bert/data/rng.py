"""Random numbers computed from what they are for, without a generator whose state would have to be saved.

A sample has a key, a hash of the seed and the sample's global index. Its choices are the numbers that
SplitMix64 (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators") draws from that key.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from pretrain.data.permutation import mix

Keys = npt.NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1


def sample_keys(seed: int, purpose: str, samples: npt.ArrayLike) -> Keys:
    """A key for each sample index, uint64, in the shape of `samples`; other purposes give other keys."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8, person=b"pretrain bert").digest()
    base = np.frombuffer(digest, "<u8").astype(np.uint64)
    return mix(base + np.asarray(samples).astype(np.uint64) * np.uint64(GOLDEN))


def uniform(keys: Keys, use: int, items: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), float64 [B, N]: one for each of the items [N] or [B, N] of each key [B].

    The same item of the same key always has the same number; another `use` (1, 2, ...) gives others.
    """
    stream = mix(keys + np.uint64(use * GOLDEN & _WORD))[:, None]
    bits = mix(stream + np.asarray(items).astype(np.uint64) * np.uint64(GOLDEN))
    # The upper 53 bits fit a float64 exactly.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


class HashRng:
    """The choices of one sample, one after the other."""

    def __init__(self, key: int) -> None:
        self._state = key

    def below(self, n: int) -> int:
        """One of range(n), all equally likely."""
        return self._bits() * n >> 64

    def happens(self, probability: float) -> bool:
        return self._bits() * 2.0**-64 < probability

    def _bits(self) -> int:
        self._state = (self._state + GOLDEN) & _WORD
        bits = self._state
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _WORD
        return bits ^ (bits >> 31)
