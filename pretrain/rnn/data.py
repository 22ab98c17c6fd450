"""Batches for a model that carries its state: row b of a step continues row b of the step before.

Training. A batch has `global_size` rows, which the sources share in proportion to their weights. A source of
n tokens whose share is R rows is cut into R streams of T = (n - 1) // S // R sequences of S tokens, one after
the other; T steps are an epoch of it. The rest, fewer than R S + 1 tokens, decides where the streams of an
epoch begin: as many tokens from the front as a hash of (seed, source, epoch) says. So the tokens of any row
and step are a function of (seed, step), whatever the number of ranks, and a loader has no state.

Validation. Each source is cut into as many lanes as a batch has rows, or into its sequences if these are
fewer. A lane begins without a state, so the numbers depend on the number of lanes and on nothing else.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_tools.counts import are, counted
from data_tools.tokenizer import Tokenizer
from pretrain.config.sections import RnnConfig
from pretrain.data.batch import Batch, BatchRow, make_batch, padding_row
from pretrain.data.blend import make_blend
from pretrain.data.dataset import OfShards
from pretrain.data.order import micro_batch_samples
from pretrain.data.sources import TokenRange, fingerprint_of, open_training
from pretrain.errors import UserError
from pretrain.seeds import stream_seed


@dataclass(frozen=True)
class StreamBatch:
    """Some rows of a step, and which of them begin a stream."""

    batch: Batch
    fresh: Tensor
    """bool [B]: rows that begin a stream here, without a state."""


@dataclass(frozen=True)
class Streams:
    """The rows that one source has in each batch."""

    source: TokenRange
    number: int
    """Index of the source."""
    rows: int
    steps: int
    """Steps of an epoch."""
    spare: int
    """Tokens that an epoch leaves out."""


def open_data(config: RnnConfig) -> "tuple[StreamData, LaneData | None]":
    """Open what a config names; raises UserError or IntegrityError naming the path."""
    return StreamData.from_config(config), LaneData.from_config(config)


@dataclass(frozen=True)
class StreamData:
    """The training streams of a run. Immutable: what comes next follows from the step alone."""

    streams: tuple[Streams, ...]
    places: tuple[tuple[int, int], ...]
    """For each row of a batch: its source, and which of the source's streams it is."""
    config: RnnConfig
    fingerprint: str
    """Equal fingerprints give equal tokens at every step."""

    @classmethod
    def from_config(cls, config: RnnConfig) -> "StreamData":
        """Open the sources of `data.train`; raises UserError or IntegrityError naming the path."""
        sources = open_training(config)
        weights = [source.weight for source in config.data.train]
        places = _places(weights, config.batch.global_size)
        length = config.batch.sequence_length
        streams = tuple(
            _cut(source, number, sum(place[0] == number for place in places), length)
            for number, source in enumerate(sources)
        )
        identity = {
            "sources": [source.describe() for source in sources],
            "weights": weights,
            "streams": config.batch.global_size,
            "sequence_length": length,
            "seed": config.run.seed,
        }
        text = json.dumps(identity, sort_keys=True)
        return cls(streams, places, config, hashlib.sha256(text.encode()).hexdigest())

    @property
    def samples_per_epoch(self) -> int:
        """Sequences read from all sources before one of them begins again, if they were equally long."""
        return sum(each.rows * each.steps for each in self.streams)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.streams[0].source.reader.tokenizer()

    @property
    def tokenizer_folder(self) -> Path:
        return self.streams[0].source.reader.tokenizer_folder

    @property
    def vocab_size(self) -> int:
        return self.streams[0].source.reader.index.vocab_size

    def rows(self, micro_batch: int, rank: int, size: int) -> range:
        """Rows of every batch that make up micro-batch `micro_batch` of rank `rank` of `size`."""
        batch = self.config.batch
        return micro_batch_samples(0, micro_batch, rank, size, batch.global_size, batch.micro_size)

    def batch(self, position: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> StreamBatch:
        """Micro-batch `micro_batch` of global batch `position` (both from 0) for rank `rank` of `size`.

        jumped: sequences that were jumped over before it, in whole batches.
        """
        position += jumped // self.config.batch.global_size
        length = self.config.batch.sequence_length
        rows, fresh = [], []
        for row in self.rows(micro_batch, rank, size):
            number, stream = self.places[row]
            mine = self.streams[number]
            epoch, step = divmod(position, mine.steps)
            # A new offset in each epoch, so that sequences are cut elsewhere each time.
            offset = stream_seed(self.config.run.seed, "streams", number, epoch) % (mine.spare + 1)
            start = mine.source.start + offset + (stream * mine.steps + step) * length
            sample = position * self.config.batch.global_size + row
            rows.append(mine.source.row(sample, start, start + length + 1, reset=False))
            fresh.append(step == 0)
        return StreamBatch(make_batch(rows, length, self.vocab_size), torch.tensor(fresh))


def _places(weights: list[float], rows: int) -> tuple[tuple[int, int], ...]:
    """Which source each row reads, in exact proportion.

    Raises UserError, with the nearest numbers of rows that can be shared out, if `rows` cannot be.
    """
    blend = make_blend(weights)
    if len(weights) > 1 and rows % blend.period:
        near = [each for each in (rows // blend.period, -(-rows // blend.period)) if each]
        raise UserError(
            f"{rows} streams cannot be shared out by the weights "
            f"{', '.join(map(str, weights))}: batch.global_size must be a multiple of {blend.period}, "
            "such as " + " or ".join(str(each * blend.period) for each in near),
            "data.train",
        )
    sources, streams = blend.locate(np.arange(rows))
    return tuple(zip(sources.tolist(), streams.tolist(), strict=True))


def _cut(source: TokenRange, number: int, rows: int, length: int) -> Streams:
    steps = (source.tokens - 1) // length // rows
    if not steps:
        raise UserError(
            f"{source.path}: {counted(source.tokens, 'token')} {are(source.tokens)} "
            f"fewer than {rows} streams of "
            f"batch.sequence_length {length} need, {rows * length + 1:,}; at most "
            f"{(source.tokens - 1) // length} streams fit",
            "data.train",
        )
    return Streams(source, number, rows, steps, source.tokens - 1 - rows * steps * length)


@dataclass(frozen=True)
class Lanes:
    """The lanes of one validation source."""

    source: TokenRange
    stop: int
    """Position after the last label."""
    count: int
    steps: int
    """Sequences in a lane; the last ones may have fewer."""
    length: int

    @property
    def labels(self) -> tuple[int, int]:
        """Half-open range of positions whose tokens are scored."""
        return self.source.start + 1, self.stop

    def row(self, lane: int, step: int) -> BatchRow:
        """Sequence `step` of a lane; padding after the last label."""
        start = self.source.start + (lane * self.steps + step) * self.length
        if lane >= self.count or start + 1 >= self.stop:
            return padding_row(reset=False)
        return self.source.row(lane, start, min(start + self.length + 1, self.stop), reset=False)


@dataclass(frozen=True)
class LaneData(OfShards):
    """Every label of the validation sources, scored once."""

    lanes: tuple[Lanes, ...]
    vocab_size: int

    @classmethod
    def over(cls, sources: tuple[TokenRange, ...], config: RnnConfig) -> "LaneData":
        """Lanes over these ranges; `eval.max_windows` keeps the labels of that many sequences of each."""
        length, most = config.batch.sequence_length, config.eval.max_windows
        lanes = []
        for source in sources:
            stop = source.stop if most is None else min(source.stop, source.start + most * length + 1)
            sequences = -(-(stop - source.start - 1) // length)
            steps = -(-sequences // min(config.batch.global_size, sequences))
            lanes.append(Lanes(source, stop, -(-sequences // steps), steps, length))
        vocab_size = sources[0].reader.index.vocab_size
        return cls(tuple(lanes), vocab_size)

    @property
    def tokens(self) -> int:
        return sum(lanes.labels[1] - lanes.labels[0] for lanes in self.lanes)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([lanes.source for lanes in self.lanes])

    def batches(self, size: int, micro_size: int) -> int:
        """Batches that each of `size` ranks gets."""
        return sum(lanes.steps * -(-lanes.count // (micro_size * size)) for lanes in self.lanes)

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[StreamBatch]:
        """The batches of one rank, as many on every rank: `micro_size` lanes from beginning to end, then the
        next.

        Which lanes are read together does not depend on the number of ranks, and neither does any number.
        """
        for lanes in self.lanes:
            for group in range(-(-lanes.count // (micro_size * size))):
                first = (group * size + rank) * micro_size
                for step in range(lanes.steps):
                    rows = [lanes.row(lane, step) for lane in range(first, first + micro_size)]
                    batch = make_batch(rows, lanes.length, self.vocab_size)
                    yield StreamBatch(batch, torch.full((micro_size,), step == 0))
