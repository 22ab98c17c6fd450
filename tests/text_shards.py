"""Small shard directories for tests: blocks of a few tokens, so that documents and samples cross them."""

from pathlib import Path

from data_tools.blocks import PartitionWriter
from data_tools.index import make_index, token_dtype, write_index
from data_tools.tokenizer import Tokenizer, byte_tokenizer


def build_shards(
    path: Path, documents: list[str], tokenizer: Tokenizer | None = None, block_tokens: int = 100
) -> Path:
    """Write documents into the shard directory `path`, one shard for every third of them."""
    tokenizer = tokenizer or byte_tokenizer()
    path.mkdir(parents=True)
    size = tokenizer.vocab_size, tokenizer.eod_id, block_tokens
    shards = []
    for part in range(3):
        writer = PartitionWriter(path, path, part, *size)
        for text in documents[part * len(documents) // 3 : (part + 1) * len(documents) // 3]:
            writer.start_document()
            writer.add(tokenizer.encode_array(text))
            writer.end_document()
        shards += writer.close()
    index = make_index(
        dtype=token_dtype(tokenizer.vocab_size),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        tokens=sum(block.tokens for shard in shards for block in shard.blocks),
        documents=len(documents),
        bytes=sum(len(text.encode()) for text in documents),
        words=sum(len(text.split()) for text in documents),
        shards=tuple(shards),
    )
    tokenizer.save(path / "tokenizer")
    write_index(path, index)
    return path
