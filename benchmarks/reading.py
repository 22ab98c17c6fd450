"""Tokens a second of reading, in random global order, against stock webdataset and a flat memory map.

    python benchmarks/reading.py [--quick]

All give batches of the same shape, int64 [batch, sequence + 1], for several shapes: a pipeline that handles
one sample after another pays for samples, a memory map for tokens.

Ours are whole training batches: order, reading, the check of ids, labels, masks and positions; then the same
without the last four, which is all that the others give, and what the targets are about. `webdataset,
shuffled` is the stock pipeline that trains on these tars: decode, cut blocks into sequences, shuffle buffer,
batch, and ids widened a batch at a time, which is faster than one by one. `webdataset, in order` leaves the
shuffling out and cuts whole batches from a block at once: no order of samples at all, but the most that its
reader can give. The memory map is what nanoGPT does: random crops of one flat file, stacked.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, ratio, spread, take_turns

from data_tools.reader import ShardReader
from data_tools.tokenizer import byte_tokenizer
from pretrain.config.sections import GptConfig
from pretrain.data.order import make_order, micro_batch_samples
from pretrain.gpt.data import TrainingData

TOKENS_A_TURN = 1 << 22
EPOCH = 100_000_000
SHUFFLE = 1000
Ids = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Shape:
    """Tokens of a sample, and samples of a batch."""

    sequence: int
    batch: int

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.sequence * self.batch


SHAPES = (Shape(256, 32), Shape(256, 128), Shape(1024, 32), Shape(1024, 128))


def our_data(folder: Path, shape: Shape) -> TrainingData:
    """Our loader."""
    config = gpt_config(
        folder,
        folder / "shards",
        f"batch.global_size={shape.batch}",
        f"batch.micro_size={shape.batch}",
        f"batch.sequence_length={shape.sequence}",
    ).config
    assert isinstance(config, GptConfig)
    return TrainingData.from_config(config)


def our_batches(folder: Path, shape: Shape) -> Iterator[object]:
    """Training batches of our loader, in its global order."""
    data = our_data(folder, shape)
    for step in range(1 << 40):
        yield data.batch(step, 0, 0, 1)


def our_ids(folder: Path, shape: Shape) -> Iterator[Ids]:
    """The same samples without labels, masks and positions: what the others give."""
    stored = our_data(folder, shape).stored
    for first in range(0, 1 << 40, shape.batch):
        yield stored.read(range(first, first + shape.batch)).astype(np.int64)


def memory_map_batches(folder: Path, shape: Shape) -> Iterator[torch.Tensor]:
    """Random crops of a flat file, stacked as nanoGPT's `get_batch` does."""
    data = np.memmap(folder / "flat.bin", dtype=np.uint16, mode="r")
    length = shape.sequence + 1
    while True:
        starts = torch.randint(len(data) - length, (shape.batch,)).tolist()
        crops = [torch.from_numpy(data[start : start + length].astype(np.int64)) for start in starts]
        yield torch.stack(crops)


def urls(folder: Path) -> list[str]:
    """The tars."""
    return sorted(str(path) for path in (folder / "shards").glob("*.tar"))


def webdataset_shuffled(folder: Path, shape: Shape) -> Iterator[Ids]:
    """The stock pipeline: sequences through a shuffle buffer."""

    def cut(samples: Iterator[tuple[Ids]]) -> Iterator[tuple[Ids]]:
        for (block,) in samples:
            for start in range(0, len(block) - shape.sequence, shape.sequence):
                yield (block[start : start + shape.sequence + 1],)

    while True:
        blocks = webdataset.WebDataset(urls(folder), shardshuffle=False).decode().to_tuple("tokens.npy")
        for (batch,) in blocks.compose(cut).shuffle(SHUFFLE).batched(shape.batch, partial=False):
            yield batch.astype(np.int64)


def webdataset_in_order(folder: Path, shape: Shape) -> Iterator[Ids]:
    """The blocks as stock webdataset decodes them, cut into batches."""
    size, sequence = shape.tokens, shape.sequence
    while True:
        blocks = webdataset.WebDataset(urls(folder), shardshuffle=False).decode().to_tuple("tokens.npy")
        for (block,) in blocks:
            for start in range(0, len(block) - size, size):
                batch = np.empty((shape.batch, sequence + 1), np.int64)
                batch[:, :-1] = block[start : start + size].reshape(shape.batch, sequence)
                batch[:, -1] = block[start + sequence : start + size + 1 : sequence]
                yield batch


def turn_of(batches: Iterator[object], count: int) -> Callable[[], float]:
    """Seconds for `count` batches."""

    def turn() -> float:
        began = time.perf_counter()
        for _ in islice(batches, count):
            pass
        return time.perf_counter() - began

    return turn


def measure_epoch() -> Table:
    """Start-up, memory and speed of the order of a corpus of 10^8 samples."""
    tracemalloc.start()
    began = time.perf_counter()
    order = make_order(1234, [EPOCH], [1.0])
    first = order.locate(np.arange(8))
    ready = time.perf_counter() - began
    for place in range(0, EPOCH, EPOCH // 100):
        order.locate(np.arange(place, place + 8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.perf_counter()
    steps = 2000
    for step in range(steps):
        ids = micro_batch_samples(step=step, micro_batch=0, rank=0, size=1, global_size=8, micro_size=8)
        order.locate(np.asarray(ids))
    seconds = (time.perf_counter() - began) / steps
    assert len(first[1]) == 8
    rows = [
        ("from nothing to the first 8 samples", f"{ready * 1e3:.1f} ms"),
        ("peak memory of that and of jumping through the epoch", f"{peak / 2**20:.2f} MiB"),
        ("next 8 samples", f"{seconds * 1e6:.0f} us"),
    ]
    return Table((f"order of {EPOCH:,} samples", "cost"), rows)


MAKERS: dict[str, Callable[[Path, Shape], Iterator[object]]] = {
    "ours, training batches": our_batches,
    "ours, ids alone": our_ids,
    "webdataset, shuffled": webdataset_shuffled,
    "webdataset, in order": webdataset_in_order,
    "flat memory map": memory_map_batches,
}


def measure(quick: bool) -> Report:
    """Let the readers take turns over the same tokens."""
    torch.set_num_threads(1)
    rounds, tokens = (5, 1 << 23) if quick else (21, 1 << 26)
    rows: list[tuple[str, ...]] = []
    targets = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(folder / "shards", byte_tokenizer(), tokens)
        reader = ShardReader(folder / "shards")
        reader.read(0, len(reader)).tofile(folder / "flat.bin")
        for shape in SHAPES:
            found = race(folder, shape, rounds)
            ours = found["ours, training batches"]
            what = f"{shape.batch} x {shape.sequence}"
            for name, seconds in found.items():
                rates = spread([TOKENS_A_TURN / s / 1e6 for s in seconds], ",.0f")
                rows.append((what, name, rates, f"{ratio(seconds, ours):.2f}"))
            # What gives ids alone is compared with ids alone.
            ids = found["ours, ids alone"]
            for name, bound in (("webdataset, shuffled", 4), ("flat memory map", 0.5)):
                targets.append(Target(f"{what}: ids alone / {name}", ratio(found[name], ids), bound))
    question = (
        f"Reading {tokens:,} tokens (uint16, in the page cache) as int64 batches of samples of 256 and 1,024 "
        f"tokens, one thread. Median (middle half) of {rounds} turns of {TOKENS_A_TURN:,} tokens."
    )
    table = Table(("batch", "reader", "million tokens/s", "training batches / this"), rows)
    return Report("reading", question, [table, measure_epoch()], targets)


def race(folder: Path, shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Seconds a turn of each reader in each round."""
    count = TOKENS_A_TURN // shape.tokens
    turns = {name: turn_of(make(folder, shape), count) for name, make in MAKERS.items()}
    take_turns(turns, 2)  # pages into the cache
    return take_turns(turns, rounds)


if __name__ == "__main__":
    main(measure, __doc__)
