"""Tokens a second of reading, in random global order, against stock webdataset and a flat memory map.

    python benchmarks/reading.py [--quick]

All give batches of the same shape, int64 [batch, sequence + 1].

Ours are whole training batches: order, reading, the check of ids, labels, masks and positions; then the same
without the last four. `webdataset, shuffled` is the stock pipeline that trains on these tars: decode, cut
blocks into sequences, shuffle buffer, batch. `webdataset, in order` leaves the shuffling out and cuts whole
batches from a block at once: no order of samples at all, but the most that its reader can give. The memory
map is what nanoGPT does: random crops of one flat file, stacked.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import webdataset
from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, ratio, spread, take_turns

from data_tools.reader import ShardReader
from data_tools.tokenizer import byte_tokenizer
from pretrain.data.order import make_order, micro_batch_samples
from pretrain.data.text import TrainingData

SEQUENCE, BATCH, BATCHES_A_TURN = 1024, 32, 128
EPOCH = 100_000_000
SHUFFLE = 1000
Ids = np.ndarray[Any, np.dtype[Any]]


def our_batches(folder: Path) -> Iterator[object]:
    """Training batches of our loader, in its global order."""
    config = gpt_config(
        folder,
        folder / "shards",
        f"batch.global_size={BATCH}",
        f"batch.micro_size={BATCH}",
        f"batch.sequence_length={SEQUENCE}",
    ).config
    data = TrainingData.from_config(config)
    for step in range(1 << 40):
        yield data.batch(step, 0, 0, 1)


def our_streams(folder: Path) -> Iterator[Ids]:
    """The same samples without labels, masks and positions: what the other two give."""
    reader = ShardReader(folder / "shards")
    order = make_order(1, [(len(reader) - 1) // SEQUENCE], [1.0])
    for first in range(0, 1 << 40, BATCH):
        _, samples = order.locate(np.arange(first, first + BATCH))
        batch = np.empty((BATCH, SEQUENCE + 1), np.int64)
        for row, sample in zip(batch, samples.tolist(), strict=True):
            row[:] = reader.read(sample * SEQUENCE, sample * SEQUENCE + SEQUENCE + 1)
        yield batch


def memory_map_batches(folder: Path) -> Iterator[torch.Tensor]:
    """Random crops of a flat file, stacked as nanoGPT's `get_batch` does."""
    data = np.memmap(folder / "flat.bin", dtype=np.uint16, mode="r")
    while True:
        starts = torch.randint(len(data) - SEQUENCE - 1, (BATCH,)).tolist()
        crops = [torch.from_numpy(data[start : start + SEQUENCE + 1].astype(np.int64)) for start in starts]
        yield torch.stack(crops)


def urls(folder: Path) -> list[str]:
    """The tars."""
    return sorted(str(path) for path in (folder / "shards").glob("*.tar"))


def webdataset_shuffled(folder: Path) -> Iterator[Ids]:
    """The stock pipeline: sequences through a shuffle buffer."""

    def cut(samples: Iterator[tuple[Ids]]) -> Iterator[tuple[Ids]]:
        for (block,) in samples:
            for start in range(0, len(block) - SEQUENCE, SEQUENCE):
                yield (block[start : start + SEQUENCE + 1].astype(np.int64),)

    while True:
        blocks = webdataset.WebDataset(urls(folder), shardshuffle=False).decode().to_tuple("tokens.npy")
        for (batch,) in blocks.compose(cut).shuffle(SHUFFLE).batched(BATCH, partial=False):
            yield batch


def webdataset_in_order(folder: Path) -> Iterator[Ids]:
    """The blocks as stock webdataset decodes them, cut into batches."""
    size = BATCH * SEQUENCE
    while True:
        blocks = webdataset.WebDataset(urls(folder), shardshuffle=False).decode().to_tuple("tokens.npy")
        for (block,) in blocks:
            for start in range(0, len(block) - size, size):
                batch = np.empty((BATCH, SEQUENCE + 1), np.int64)
                batch[:, :-1] = block[start : start + size].reshape(BATCH, SEQUENCE)
                batch[:, -1] = block[start + SEQUENCE : start + size + 1 : SEQUENCE]
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


def measure(quick: bool) -> Report:
    """Let the readers take turns over the same tokens."""
    torch.set_num_threads(1)
    rounds, tokens = (5, 1 << 23) if quick else (21, 1 << 26)
    makers: dict[str, Callable[[Path], Iterator[object]]] = {
        "ours, training batches": our_batches,
        "ours, ids alone": our_streams,
        "webdataset, shuffled": webdataset_shuffled,
        "webdataset, in order": webdataset_in_order,
        "flat memory map": memory_map_batches,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(folder / "shards", byte_tokenizer(), tokens)
        reader = ShardReader(folder / "shards")
        reader.read(0, len(reader)).tofile(folder / "flat.bin")
        turns = {name: turn_of(make(folder), BATCHES_A_TURN) for name, make in makers.items()}
        take_turns(turns, 2)  # pages into the cache
        found = take_turns(turns, rounds)
    per_turn = BATCHES_A_TURN * BATCH * SEQUENCE
    ours = found["ours, training batches"]
    rows = [
        (name, spread([per_turn / s / 1e6 for s in seconds], ",.0f"), f"{ratio(seconds, ours):.2f}")
        for name, seconds in found.items()
    ]
    question = (
        f"Reading {tokens:,} tokens (uint16, in the page cache) as int64 [{BATCH}, {SEQUENCE + 1}] batches, "
        f"one thread. Median (middle half) of {rounds} turns of {BATCHES_A_TURN} batches."
    )
    targets = [
        Target("training batches / webdataset, shuffled", ratio(found["webdataset, shuffled"], ours), 4),
        Target("training batches / flat memory map", ratio(found["flat memory map"], ours), 0.5),
    ]
    assert median(ours) > 0
    table = Table(("reader", "million tokens/s", "training batches / this"), rows)
    return Report("reading", question, [table, measure_epoch()], targets)


if __name__ == "__main__":
    main(measure, __doc__)
