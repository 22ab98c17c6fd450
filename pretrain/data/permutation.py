"""A keyed permutation of range(n) that is computed, not stored.

The order of samples in an epoch is `permute(key, n, [0, 1, 2, ...])`: nothing to build at start-up, O(1)
memory for any n, random access to any element, and the same on every rank. It is an alternating Feistel
network on the smallest power of two that is at least n, with cycle walking: a value outside range(n) is
encrypted again until it falls inside (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"; at
most two encryptions a value on average). A Feistel network is a bijection for any round function, because
each round xors one half with a function of the other, which the same round undoes.

Small n have too few bits for a Feistel network to mix well, so up to `TABLE_SIZE` elements are shuffled by
sorting keyed hashes. This is shuffling, not cryptography: the key is not secret.

10 to 50 million indices a second on one core, 0.1 ms for the handful that a micro-batch needs.
"""

import hashlib

import numpy as np
import numpy.typing as npt

Key = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

ROUNDS = 8
TABLE_SIZE = 256
MAX_SIZE = 2**62
_CHUNK = 2**15  # so that the temporaries of one chunk stay in the CPU cache
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def permutation_key(seed: int, source: int, epoch: int) -> Key:
    """Round keys of the permutation of one source in one epoch: uint64 [ROUNDS], by BLAKE2b."""
    message = f"{seed}/{source}/{epoch}".encode()
    digest = hashlib.blake2b(message, digest_size=8 * ROUNDS, person=b"pretrain order").digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def permute(key: Key, n: int, indices: npt.ArrayLike) -> Indices:
    """Images of `indices` (int64, any shape, each in range(n)) under the permutation of range(n) that
    `key` names.

    Raises ValueError when n is not in [1, 2^62] or an index is not in range(n).
    """
    if not 1 <= n <= MAX_SIZE:
        raise ValueError(f"cannot permute {n} elements: from 1 to {MAX_SIZE} are possible")
    asked = np.asarray(indices, dtype=np.int64)
    if asked.size and not (asked.min() >= 0 and asked.max() < n):
        outside = asked.min() if asked.min() < 0 else asked.max()
        raise ValueError(f"index {outside} is not in range({n})")
    flat = asked.reshape(-1).astype(np.uint64)
    if n <= TABLE_SIZE:
        return _table(key, n)[flat].reshape(asked.shape)
    out = np.empty(flat.size, dtype=np.int64)
    for start in range(0, flat.size, _CHUNK):
        out[start : start + _CHUNK] = _walk(key, n, flat[start : start + _CHUNK])
    return out.reshape(asked.shape)


def _table(key: Key, n: int) -> Indices:
    """The whole permutation of a small range: the order of its keyed hashes."""
    hashes = np.arange(n, dtype=np.uint64)
    for round_key in key:
        hashes = mix(hashes + round_key)
    return np.argsort(hashes, kind="stable")


def _walk(key: Key, n: int, values: npt.NDArray[np.uint64]) -> Indices:
    """Encrypt each value until it lies in range(n). This terminates because the value's own cycle leads back
    to it."""
    bits = (n - 1).bit_length()
    out = _encrypt(key, bits, values)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        again = _encrypt(key, bits, out[outside])
        out[outside] = again
        outside = outside[again >= n]
    return out.astype(np.int64)


def _encrypt(key: Key, bits: int, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The Feistel network on range(2^bits): each round changes one half by a hash of the other."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for i, round_key in enumerate(key):
        if i % 2:
            high = high ^ (mix(low + round_key) & high_mask)
        else:
            low = low ^ (mix(high + round_key) & low_mask)
    return (high << low_bits) | low


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place: every input bit affects every output
    bit."""
    x ^= x >> _SHIFTS[0]
    x *= _MULTIPLIERS[0]
    x ^= x >> _SHIFTS[1]
    x *= _MULTIPLIERS[1]
    x ^= x >> _SHIFTS[2]
    return x
