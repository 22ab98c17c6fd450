"""What `pretrain data inspect` shows of a shard directory."""

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_tools.cache import ShardCache
from data_tools.counts import counted
from data_tools.progress import amount
from data_tools.reader import ShardReader

PREVIEW_TOKENS = 24


def describe(directory: str, documents: int = 5, cache: ShardCache | None = None) -> RenderableType:
    """Tables of the counts, the shards and the first tokens of some documents spread over the directory.

    documents: how many; without any no shard is read.

    Raises UserError or IntegrityError as `ShardReader` does.
    """
    reader = ShardReader(directory, cache)
    return Group(_counts(reader), _shards(reader), *([_documents(reader, documents)] * bool(documents)))


def _counts(reader: ShardReader) -> Table:
    index, tokenizer = reader.index, reader.tokenizer()
    table = Table(title=Text(f"{reader.path}"), show_header=False, title_justify="left")
    count = index.sentences
    each = "" if count is None else f"{count:,} ({count / index.documents:,.1f} a document)"
    rows: dict[str, str | Text] = {
        "tokens": f"{index.tokens:,} ({index.dtype})",
        "documents": f"{index.documents:,} ({index.tokens / index.documents:,.1f} tokens each)",
        **({"sentences": each} if each else {}),
        "text": f"{amount(index.bytes, 'B')}, {index.words:,} words",
        "bytes per token": f"{index.bytes / index.tokens:.3f}",
        "tokenizer": f"{tokenizer.model_type}, {tokenizer.vocab_size:,} ids, {tokenizer.roles}",
        **({"lossy": Text(f"the tokenizer changes texts: {tokenizer.loss}")} if index.lossy else {}),
        "tokenizer fingerprint": index.tokenizer_fingerprint[:16],
        "fingerprint": index.fingerprint[:16],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _shards(reader: ShardReader, most: int = 10) -> Table:
    shards = reader.index.shards
    columns = ("shard", "size", "blocks", "tokens", "documents")
    table = Table(*columns, title=counted(len(shards), "shard"), title_justify="left")
    for shard in shards[:most]:
        tokens, docs = (sum(getattr(block, key) for block in shard.blocks) for key in ("tokens", "docs"))
        table.add_row(shard.name, amount(shard.size, "B"), str(len(shard.blocks)), f"{tokens:,}", f"{docs:,}")
    if len(shards) > most:
        table.add_row(f"... {len(shards) - most} more")
    return table


def _documents(reader: ShardReader, count: int) -> Table:
    tokenizer = reader.tokenizer()
    table = Table("at token", "text", "ids", title="Some documents", title_justify="left")
    positions = np.linspace(0, len(reader) - 1, count, dtype=np.int64)
    for start in sorted({reader.nearest_document_start(int(position)) for position in positions}):
        ids = reader.read(start, min(start + PREVIEW_TOKENS, len(reader))).tolist()
        if reader.index.eod_id in ids:
            ids = ids[: ids.index(reader.index.eod_id) + 1]
        # Text objects, since documents may hold what rich would read as markup.
        table.add_row(
            f"{start:,}", Text(repr(tokenizer.decode(ids))), Text(" ".join(map(str, ids[:8])) + " ...")
        )
    return table
