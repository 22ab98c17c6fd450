"""What `pretrain data inspect` shows of a directory of image shards."""

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_tools.cache import ShardCache
from data_tools.counts import counted
from data_tools.images.index import image_key
from data_tools.images.reader import ImageReader
from data_tools.progress import amount
from data_tools.show import facts_table

MOST_ROWS = 20


def describe_images(directory: str, cache: ShardCache | None = None) -> RenderableType:
    """Tables of the counts, the classes and the shards.

    Raises UserError or IntegrityError as `ImageReader` does.
    """
    reader = ImageReader(directory, cache)
    return Group(_counts(reader), *_classes(reader), _shards(reader))


def _counts(reader: ImageReader) -> Table:
    index = reader.index
    stored = sum(sum(shard.sizes) for shard in index.shards)
    colours = "colour" if index.channels == 3 else "grey"
    rows = {
        "images": f"{index.images:,} ({amount(stored / index.images, 'B')} each)",
        "pixels": f"{index.image_size} x {index.image_size}, {colours}, {index.encoding}",
        "classes": f"{len(index.classes):,}" if index.classes else "none",
        "fingerprint": index.fingerprint[:16],
    }
    return facts_table(reader.path, rows)


def _classes(reader: ImageReader) -> list[Table]:
    """How many images each class has; no table without classes."""
    if reader.labels is None:
        return []
    counts = np.bincount(reader.labels, minlength=len(reader.index.classes))
    table = Table("class", "name", "images", title="Classes", title_justify="left")
    for number, name in enumerate(reader.index.classes[:MOST_ROWS]):
        # A Text object, since a name may hold what rich would read as markup.
        table.add_row(str(number), Text(name), f"{counts[number]:,}")
    if len(reader.index.classes) > MOST_ROWS:
        table.add_row(f"... {len(reader.index.classes) - MOST_ROWS:,} more")
    return [table]


def _shards(reader: ImageReader) -> Table:
    shards = reader.index.shards
    columns = ("shard", "size", "images", "first key")
    table = Table(*columns, title=counted(len(shards), "shard"), title_justify="left")
    for shard in shards[:MOST_ROWS]:
        size, key = amount(shard.size, "B"), image_key(shard.name, 0)
        table.add_row(shard.name, size, f"{len(shard.sizes):,}", key)
    if len(shards) > MOST_ROWS:
        table.add_row(f"... {len(shards) - MOST_ROWS} more")
    return table
