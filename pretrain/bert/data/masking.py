"""Which tokens a BERT has to predict, and what it sees in their place.

Tokens are chosen in units, all or none of a unit: single tokens, words (the whole-word masking of Devlin et
al.'s later models), or spans of words whose length is geometric (Joshi et al. 2020, "SpanBERT", section 3.1).
A row's units are put in random order and taken until the wanted share of its tokens is reached. The unit that
crosses it is taken with the probability that makes the expected share exact.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.tokenizer import BertIds, Tokenizer
from pretrain.bert.data.rng import Keys, uniform
from pretrain.config.sections import BertDataConfig

Tokens = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

TO_MASK, TO_RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK] or a random token (Devlin et al. 2019, section 3.1)."""
SPAN_STOP = 0.2
"""Probability with which a span ends after each word."""

_ORDER, _CROSSING, _FATE, _OTHER, _SPANS = range(1, 6)


@dataclass(frozen=True)
class Masked:
    """Rows with masks in place, shape [B, S] each: inputs; labels, 0 where not chosen; chosen; [MASK]."""

    inputs: Tokens
    labels: Tokens
    chosen: Flags
    masked: Flags


@dataclass(frozen=True)
class Masker:
    """The masking of one tokenizer and config; a pure function of tokens and keys."""

    ids: BertIds
    special: Flags
    """[vocab_size]: ids that stand for no text. They are never chosen and never replace other tokens."""
    ordinary: Tokens
    """The other ids."""
    begins_word: Flags
    """[vocab_size]: ids that begin with whitespace."""
    ends_word: Flags
    """[vocab_size]: ids that end with whitespace."""
    masking: str
    probability: float
    max_span: int

    @classmethod
    def make(cls, tokenizer: Tokenizer, ids: BertIds, data: BertDataConfig, max_span: int) -> "Masker":
        """The masking that a config asks for, with spans of at most `max_span` words."""
        special = tokenizer.piece_lengths == 0
        begins, ends = tokenizer.word_edges
        return cls(
            ids,
            special,
            np.flatnonzero(~special),
            begins,
            ends,
            data.masking,
            data.mask_probability,
            max_span,
        )

    def __call__(self, tokens: Tokens, keys: Keys) -> Masked:
        """Choose among tokens [B, S]; equal keys [B] make equal choices."""
        free = ~self.special[tokens]
        units: Tokens = np.cumsum(self._unit_starts(tokens, free, keys), axis=1, dtype=np.int64)
        chosen = self._choose(units, free, keys)
        positions = np.arange(tokens.shape[1])
        # All tokens of a span share one fate, as in SpanBERT.
        fate = uniform(keys, _FATE, units if self.masking == "span" else positions)
        masked = chosen & (fate < TO_MASK)
        replaced = chosen & (fate >= TO_MASK) & (fate < TO_MASK + TO_RANDOM)
        inputs = np.where(masked, self.ids.mask, tokens)
        if replaced.any():
            draws = uniform(keys, _OTHER, positions)[replaced]
            inputs[replaced] = self.ordinary[(draws * len(self.ordinary)).astype(np.int64)]
        return Masked(inputs, np.where(chosen, tokens, 0), chosen, masked)

    def _unit_starts(self, tokens: Tokens, free: Flags, keys: Keys) -> Flags:
        if self.masking == "token":
            return free
        after_special = np.ones_like(free)
        after_special[:, 1:] = ~free[:, :-1]
        words = self.begins_word[tokens]
        words[:, 1:] |= self.ends_word[tokens[:, :-1]]
        words = free & (words | after_special)
        if self.masking == "whole_word":
            return words
        return words & (after_special | self._span_starts(words, keys))

    def _span_starts(self, words: Flags, keys: Keys) -> Flags:
        """Words that begin a span when a row is divided, from its start, into spans of geometric length."""
        rows, length = words.shape
        beyond = (1 - SPAN_STOP) ** self.max_span
        draws = uniform(keys, _SPANS, np.arange(length))
        # Inverse of the geometric distribution, which is cut off after max_span and rescaled.
        lengths = 1 + np.floor(np.log1p(-draws * (1 - beyond)) / np.log(1 - SPAN_STOP)).astype(np.int64)
        starts = np.minimum(np.cumsum(lengths, axis=1), length)
        first = np.zeros((rows, length + 1), np.bool_)
        first[:, 0] = True
        np.put_along_axis(first, starts, True, axis=1)
        ordinal: Tokens = np.cumsum(words, axis=1, dtype=np.int64) - words
        return np.take_along_axis(first, ordinal, axis=1)

    def _choose(self, units: npt.NDArray[np.int64], free: Flags, keys: Keys) -> Flags:
        """Which tokens are to be predicted; tokens with the same number in `units` [B, S] are one unit."""
        # Draws are below 1, so 2 sorts special tokens last.
        draws = np.where(free, uniform(keys, _ORDER, units), 2.0)
        # A unit's tokens have equal draws, so they stay together.
        order = np.argsort(draws, axis=1, kind="stable")
        sorted_draws = np.take_along_axis(draws, order, axis=1)
        places = np.arange(units.shape[1])
        is_first = np.ones_like(free)
        is_first[:, 1:] = sorted_draws[:, 1:] != sorted_draws[:, :-1]
        first = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
        is_last = np.ones_like(free)
        is_last[:, :-1] = is_first[:, 1:]
        stop = np.where(is_last, places + 1, units.shape[1])
        stop = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1]
        asked = self.probability * free.sum(axis=1, keepdims=True)
        crossing = uniform(keys, _CROSSING, np.zeros(1))
        taken = crossing * (stop - first) < asked - first
        chosen = np.empty_like(free)
        np.put_along_axis(chosen, order, taken, axis=1)
        return chosen & free
