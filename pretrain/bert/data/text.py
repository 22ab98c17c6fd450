"""Batches for a BERT: training batches by step, validation batches in order with fixed masks.

Both are pure functions of the config and the shards. Every choice of a training sample (its segments, its
masks) follows from the seed and its global index, so another epoch makes other choices.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.bert.data.masking import Masker
from pretrain.bert.data.pairs import Pairs, Sampler, Stretches
from pretrain.bert.data.rng import HashRng, sample_keys
from pretrain.bert.data.rows import BertBatch, BertRow, make_bert_batch, room
from pretrain.config import derived
from pretrain.config.sections import BertConfig
from pretrain.data.dataset import CorpusSamples, OfShards, ValidationDataset
from pretrain.data.order import make_order
from pretrain.data.sources import TokenRange, fingerprint_of, open_training
from pretrain.errors import UserError

VALIDATION_SEED = 0
"""Validation has the same segments and masks in every run, so that scores can be compared."""


def open_data(config: BertConfig) -> "tuple[BertTrainingData, BertValidationData | None]":
    """Open what a config names; raises UserError or IntegrityError naming the path."""
    return BertTrainingData.from_config(config), BertValidationData.from_config(config)


@dataclass(frozen=True)
class BertTrainingData(CorpusSamples[BertBatch]):
    """The training samples of a BERT."""

    samplers: tuple[Sampler, ...]
    masker: Masker
    frequent_token: int

    @classmethod
    def from_config(cls, config: BertConfig) -> "BertTrainingData":
        """Open the sources of `data.train`; raises UserError or IntegrityError naming the path."""
        return cls.over(open_training(config), config)

    @classmethod
    def over(cls, sources: tuple[TokenRange, ...], config: BertConfig) -> "BertTrainingData":
        """The samples of these ranges, in the sizes and the order that a config asks for.

        Raises UserError if no samples can be made of them.
        """
        samplers = tuple(_sampler(source, config) for source in sources)
        masker = _masker(sources[0], config)
        weights = [source.weight for source in config.data.train]
        data = config.data
        identity = {
            "kind": "bert",
            "sources": [source.describe() for source in sources],
            "weights": weights,
            "sequence_length": config.batch.sequence_length,
            "seed": config.run.seed,
            "nsp": data.nsp,
            "short_sequence_probability": derived.short_sequence_probability(config),
            "masking": [data.masking, data.mask_probability, derived.max_span(config)],
        }
        return cls(
            sources=sources,
            order=make_order(config.run.seed, [len(sampler) for sampler in samplers], weights),
            sequence_length=config.batch.sequence_length,
            global_size=config.batch.global_size,
            micro_size=config.batch.micro_size,
            fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
            samplers=samplers,
            masker=masker,
            frequent_token=most_frequent_token(sources, masker.special),
        )

    def resized(self, config: BertConfig) -> "BertTrainingData":
        return self.over(self.sources, config)

    def samples(self, sample_ids: Sequence[int]) -> BertBatch:
        ids = np.asarray(sample_ids, dtype=np.int64)
        keys = sample_keys(self.order.seed, "training", ids)
        sources, found = self.order.locate(ids)
        rows = [
            BertRow(sample_id, self.sources[source], self.samplers[source](index, HashRng(key)))
            for sample_id, source, index, key in zip(
                sample_ids, sources.tolist(), found.tolist(), keys.tolist(), strict=True
            )
        ]
        return make_bert_batch(rows, keys, self.sequence_length, self.masker, self.frequent_token)


@dataclass(frozen=True)
class BertValidationData(OfShards, ValidationDataset[BertBatch]):
    """Every sample of the validation sources, once."""

    sources: tuple[TokenRange, ...]
    samplers: tuple[Sampler, ...]
    counts: tuple[int, ...]
    """Samples of each source that are scored."""
    masker: Masker
    frequent_token: int
    sequence_length: int
    seed: int

    @classmethod
    def over(
        cls, sources: tuple[TokenRange, ...], config: BertConfig, seed: int = VALIDATION_SEED
    ) -> "BertValidationData":
        """The samples of these ranges, at most `eval.max_windows` of each; `seed` decides the masks."""
        samplers = tuple(_sampler(source, config) for source in sources)
        most = config.eval.max_windows
        sizes = tuple(len(sampler) if most is None else min(most, len(sampler)) for sampler in samplers)
        masker = _masker(sources[0], config)
        frequent = most_frequent_token(sources, masker.special)
        return cls(sources, samplers, sizes, masker, frequent, config.batch.sequence_length, seed)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.counts

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.sources)

    def these(self, numbers: range) -> BertBatch:
        keys = sample_keys(self.seed, "validation", numbers)
        rows = [self._row(number, key) for number, key in zip(numbers, keys.tolist(), strict=True)]
        return make_bert_batch(rows, keys, self.sequence_length, self.masker, self.frequent_token)

    def _row(self, number: int, key: int) -> BertRow | None:
        found = self.find(number)
        if found is None:
            return None
        source, place = found
        # The few samples that are scored stand for all, so they are spread over the source.
        spread = place * len(self.samplers[source]) // self.sizes[source]
        return BertRow(number, self.sources[source], self.samplers[source](spread, HashRng(key)))


def _sampler(source: TokenRange, config: BertConfig) -> Sampler:
    """The samples of a source.

    Raises UserError if pairs cannot be made of it.
    """
    length = room(config.batch.sequence_length, config.data.nsp)
    if not config.data.nsp:
        return Stretches(source, length)
    instead = "or train without next-sentence prediction: data.nsp: false"
    reader = source.reader
    if reader.sentences is None:
        raise UserError(
            f"{source.path}: the shards do not say where sentences begin; build them again with `pretrain "
            f"data build --sentences split` (or `lines`, for one sentence a line), {instead}"
        )
    documents = reader.documents.before(source.stop) - reader.documents.before(source.start)
    sentences = reader.sentences.before(source.stop) - reader.sentences.before(source.start)
    part = "" if source.tokens == len(reader) else f"tokens {source.start:,} to {source.stop:,} are "
    if documents < 2:
        raise UserError(
            f"{source.path}: {part}one document, and a random second segment must come from another one; "
            f"give more documents (`pretrain data build --document` says what one is), {instead}"
        )
    if sentences <= documents:
        raise UserError(
            f"{source.path}: {part}{documents:,} documents of one sentence each, so none follows another; "
            f"give longer documents (`pretrain data build --document` says what one is), {instead}"
        )
    return Pairs(source, reader.sentences, length, derived.short_sequence_probability(config))


def _masker(source: TokenRange, config: BertConfig) -> Masker:
    """The masking of a source's tokenizer. Raises UserError if that has no [MASK]."""
    tokenizer = source.reader.tokenizer()
    ids = tokenizer.bert_ids
    if ids is None:
        raise UserError(
            f"{source.path}: its tokenizer ({tokenizer.model_type}, {tokenizer.vocab_size:,} ids) has no "
            "[PAD], [CLS], [SEP] and [MASK]; make one with `pretrain data tokenizer --bert` and build the "
            "shards again"
        )
    return Masker.make(tokenizer, ids, config.data, derived.max_span(config))


MOST = 1 << 22
"""Tokens that are counted, shared among the sources."""
RUN = 1 << 16


def most_frequent_token(sources: Sequence[TokenRange], special: npt.NDArray[np.bool_]) -> int:
    """The id that occurs most often at the beginnings of these sources; the smallest if several do.

    It is the best guess without looking, and the baseline of MLM accuracy.

    Args:
        sources: of one tokenizer.
        special: [vocabulary], ids that are never predicted.
    """
    counts = np.zeros(len(special), np.int64)
    for source in sources:
        stop = min(source.stop, source.start + MOST // len(sources))
        for start in range(source.start, stop, RUN):
            ids = source.reader.read(start, min(stop, start + RUN))
            counts += np.bincount(ids[ids < len(special)], minlength=len(special))
    return int(np.where(special, -1, counts).argmax())
