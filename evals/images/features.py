"""Features of many images, each rank computing its share; the same values for any number of ranks."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from data_tools.atomic import write_atomically
from data_tools.bounded import read_bytes, read_json
from data_tools.images.reader import ImageReader
from data_tools.progress import Progress
from evals.images.extractors import Extractor
from pretrain.data.images import ImageSource
from pretrain.data.permutation import permutation_key, permute
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext

BATCH = 64
"""Images that go through the extractor together, independent of the number of ranks."""

Matrix = npt.NDArray[np.float32]


def features_of(
    pictures: Callable[[Sequence[int]], Tensor],
    count: int,
    extractor: Extractor,
    world: DistContext,
    title: str,
) -> Matrix:
    """Features of images 0 to `count`, float32 [count, F], the same on every rank.

    pictures: from numbers of images to uint8 [B, C, H, W], a pure function.
    """
    found = torch.zeros(count, extractor.feature_size)
    with Progress(title, count / world.size, "images") as progress:
        for first in range(world.rank * BATCH, count, world.size * BATCH):
            numbers = range(first, min(first + BATCH, count))
            found[first : numbers.stop] = extractor.features(pictures(numbers))
            progress.advance(len(numbers))
    dist.all_reduce(found)  # every row is zero on all ranks but one, so the sum is exact
    return found.numpy()


def chosen_images(readers: Sequence[ImageReader], most: int) -> list[tuple[int, int]]:
    """(reader, image) of all images, or of `most` of them drawn evenly, always the same ones."""
    positions = [(which, number) for which, reader in enumerate(readers) for number in range(len(reader))]
    if len(positions) <= most:
        return positions
    drawn = permute(permutation_key(0, 0, 0), len(positions), np.arange(most))
    return [positions[position] for position in sorted(drawn.tolist())]


def real_features(
    readers: Sequence[ImageReader], most: int, extractor: Extractor, world: DistContext, cache: Path | None
) -> Matrix:
    """Features of the images of some directories, up to `most`, float32 [N, F]; read from `cache` if stored
    there.

    cache: a folder; None: nothing is stored.
    """
    selected = chosen_images(readers, most)
    identity = {
        "data": [reader.fingerprint for reader in readers],
        "images": len(selected),
        # The path of a classifier's checkpoint does not matter: its fingerprint identifies it.
        "extractor": {k: v for k, v in extractor.describe().items() if k != "checkpoint"},
        "batch": BATCH,  # the batch size changes the rounding of features
    }
    name = "real-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    shape = (len(selected), extractor.feature_size)
    if cache is not None and broadcast_from_rank0(world, lambda: _read(cache, name, shape) is not None):
        found = _read(cache, name, shape)
        if found is not None:
            return found
    sources = [ImageSource(reader) for reader in readers]

    def pictures(numbers: Sequence[int]) -> Tensor:
        chosen = [selected[number] for number in numbers]
        return torch.from_numpy(np.stack([sources[which].pixels(number) for which, number in chosen]))

    features = features_of(pictures, len(selected), extractor, world, "features of real images")
    if cache is not None and world.is_first:
        _write(cache, name, identity, features)
    return features


def _read(cache: Path, name: str, shape: tuple[int, int]) -> Matrix | None:
    """Stored features; None if there are none or they are not what was written."""
    try:
        raw = read_bytes(cache / f"{name}.f32", shape[0] * shape[1] * 4)
        written = read_json(cache / f"{name}.json")
    except (OSError, ValueError):
        return None
    if not isinstance(written, dict) or written.get("sha256") != hashlib.sha256(raw).hexdigest():
        return None
    if len(raw) != shape[0] * shape[1] * 4:
        return None
    return np.frombuffer(raw, np.float32).reshape(shape)


def _write(cache: Path, name: str, identity: dict[str, Any], features: Matrix) -> None:
    """Store features, their checksum last; if the folder cannot be written, nothing is stored."""
    raw = np.ascontiguousarray(features, np.float32).tobytes()
    about = identity | {"shape": list(features.shape), "sha256": hashlib.sha256(raw).hexdigest()}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(cache / f"{name}.f32", raw)
        write_atomically(cache / f"{name}.json", json.dumps(about, indent=1) + "\n")
    except OSError:
        return
