"""The index of a directory of image shards: what it says and how it is checked.

It names every shard with its size and checksum, and for every image the byte offset and length of its file in
the tar and its class, so that a reader finds an image without scanning the tars. Sample i of a shard has the
key `STEM-IIIIII`.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.atomic import write_atomically
from data_tools.index_file import (
    FORMAT_VERSION,
    HEX_DIGEST,
    INDEX_NAME,
    SHARD_NAME,
    Fields,
    check_index_size,
    content_fingerprint,
    read_document,
)

ENCODINGS = ("png", "webp")
CHANNELS = (1, 3)
MAX_SIZE = 4096
MAX_CLASSES = 1_000_000
CLASS_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True)
class ImageShard:
    """One tar file: its size in bytes, its sha256 and its images in order.

    offsets, sizes: of the file of each image. labels: the class of each image; empty without classes.
    """

    name: str
    size: int
    sha256: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class ImageIndex:
    """What a directory of image shards holds: square images of `image_size` pixels per side.

    classes: names of the classes in the order of their numbers; empty for images without labels.
    """

    format_version: int
    kind: str
    image_size: int
    channels: int
    encoding: str
    images: int
    classes: tuple[str, ...]
    shards: tuple[ImageShard, ...]
    fingerprint: str


def image_key(shard: str, number: int) -> str:
    """The WebDataset key of an image by its number in a shard."""
    return f"{shard.removesuffix('.tar')}-{number:06d}"


def make_image_index(
    *,
    image_size: int,
    channels: int,
    encoding: str,
    classes: tuple[str, ...],
    shards: tuple[ImageShard, ...],
) -> ImageIndex:
    """Build an index from its fields; the rest follows from them."""
    images = sum(len(shard.sizes) for shard in shards)
    content = asdict(
        ImageIndex(FORMAT_VERSION, "images", image_size, channels, encoding, images, classes, shards, "")
    )
    del content["fingerprint"]
    fingerprint = content_fingerprint(content)
    return ImageIndex(
        FORMAT_VERSION, "images", image_size, channels, encoding, images, classes, shards, fingerprint
    )


def write_image_index(directory: Path, index: ImageIndex) -> None:
    """Write `index.json` atomically: it is there in full or not at all."""
    text = json.dumps(asdict(index), separators=(",", ":")) + "\n"
    check_index_size(directory / INDEX_NAME, text.encode())
    write_atomically(directory / INDEX_NAME, text)


def read_image_index(directory: str | os.PathLike[str], named: str | None = None) -> ImageIndex:
    """Read and check the `index.json` of image shards; `named` as in `read_document`.

    Raises:
        UserError: `directory` does not exist, or is not a directory of image shards.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    fields = read_document(directory, "images", tuple(ImageIndex.__dataclass_fields__), named=named)
    classes = _parse_classes(fields)
    index = ImageIndex(
        format_version=fields.integer("format_version", FORMAT_VERSION, FORMAT_VERSION),
        kind="images",
        image_size=fields.integer("image_size", 1, MAX_SIZE),
        channels=fields.integer("channels", 1, 3),
        encoding=fields.text("encoding", re.compile("|".join(ENCODINGS)), " or ".join(map(repr, ENCODINGS))),
        images=fields.integer("images", 1),
        classes=classes,
        shards=tuple(
            _parse_shard(fields.path, f"shards[{number}]", shard, len(classes))
            for number, shard in enumerate(fields.items("shards"))
        ),
        fingerprint=fields.text("fingerprint", HEX_DIGEST, "a sha256"),
    )
    if index.channels not in CHANNELS:
        fields.fail("channels", f"is {index.channels} instead of 1 or 3")
    found = sum(len(shard.sizes) for shard in index.shards)
    if found != index.images:
        fields.fail("images", f"is {index.images}, but the shards add up to {found}")
    if len({shard.name for shard in index.shards}) != len(index.shards):
        fields.fail("shards", "names a shard twice")
    content = {key: value for key, value in fields.value.items() if key != "fingerprint"}
    if content_fingerprint(content) != index.fingerprint:
        fields.fail("fingerprint", "does not fit the rest of the index")
    return index


def _parse_classes(fields: Fields) -> tuple[str, ...]:
    classes = fields.items("classes")
    for number, name in enumerate(classes):
        if not isinstance(name, str) or not CLASS_NAME.fullmatch(name):
            fields.fail(f"classes[{number}]", "is not a name")
    if len(set(classes)) != len(classes):
        fields.fail("classes", "names a class twice")
    return tuple(classes)


def _parse_shard(path: str, where: str, value: Any, classes: int) -> ImageShard:
    fields = Fields(path, where, value, tuple(ImageShard.__dataclass_fields__))
    size = fields.integer("size", 1)
    offsets, sizes = fields.integers("offsets", 512, size), fields.integers("sizes", 1, size)
    if not sizes or len(offsets) != len(sizes):
        fields.fail("sizes", f"has {len(sizes)} entries for {len(offsets)} images")
    ends = max(offset + length for offset, length in zip(offsets, sizes, strict=True))
    if ends > size:
        fields.fail("offsets", f"has an image that ends at byte {ends} of a shard of {size}")
    labels = fields.integers("labels", 0, max(0, classes - 1))
    if len(labels) != (len(sizes) if classes else 0):
        fields.fail("labels", f"has {len(labels)} entries for {len(sizes)} images of {classes} classes")
    return ImageShard(
        name=fields.text("name", SHARD_NAME, "a plain file name such as '000000-000.tar'"),
        size=size,
        sha256=fields.text("sha256", HEX_DIGEST, "a sha256"),
        offsets=offsets,
        sizes=sizes,
        labels=labels,
    )
