"""Small shard directories for tests: blocks of a few tokens, so that documents and samples cross them."""

import io
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np

from data_tools.index import Block, Shard, make_index, token_dtype, write_index
from data_tools.tokenizer import Tokenizer, byte_tokenizer


def build_shards(
    path: Path, documents: list[str], tokenizer: Tokenizer | None = None, block_tokens: int = 100
) -> Path:
    """Write `documents` into the shard directory `path`, two blocks a shard."""
    tokenizer = tokenizer or byte_tokenizer()
    encoded = [[*tokenizer.encode(text), tokenizer.eod_id] for text in documents]
    stream = np.array(
        [token for document in encoded for token in document], token_dtype(tokenizer.vocab_size)
    )
    starts = np.cumsum([0, *(len(document) for document in encoded[:-1])])
    path.mkdir(parents=True)
    firsts = range(0, len(stream), block_tokens)
    shards = []
    for number, first in enumerate(firsts[::2]):
        blocks = []
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for start in [first, first + block_tokens][: len(firsts) - 2 * number]:
                tokens = stream[start : start + block_tokens]
                docs = starts[(starts >= start) & (starts < start + len(tokens))] - start
                key = f"{start:06d}"
                at = [
                    _add(tar, buffer, f"{key}.{kind}.npy", a)
                    for kind, a in (("tokens", tokens), ("docs", docs))
                ]
                blocks.append(Block(key, at[0], len(tokens), at[1], len(docs)))
        content = buffer.getvalue()
        (path / f"{number:06d}.tar").write_bytes(content)
        shards.append(Shard(f"{number:06d}.tar", len(content), sha256(content).hexdigest(), tuple(blocks)))
    index = make_index(
        dtype=str(stream.dtype),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        tokens=len(stream),
        documents=len(documents),
        bytes=sum(len(text.encode()) for text in documents),
        words=sum(len(text.split()) for text in documents),
        shards=tuple(shards),
    )
    tokenizer.save(path / "tokenizer")
    write_index(path, index)
    return path


def _add(tar: tarfile.TarFile, buffer: io.BytesIO, name: str, array: np.ndarray) -> int:
    """Add an array as a member; returns the offset of its raw data in the tar."""
    member = io.BytesIO()
    np.save(member, array)
    info = tarfile.TarInfo(name)
    info.size = len(member.getvalue())
    header = buffer.tell() + 512
    tar.addfile(info, io.BytesIO(member.getvalue()))
    return header + info.size - array.nbytes
