"""Seeds of independent random streams."""

import hashlib


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed for the stream that `parts` name, unrelated to any other's."""
    text = ":".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
