"""Rules between keys of the samples of a BERT."""

from pretrain.config.rule import Rule, Setup, only_with, unless
from pretrain.config.sections import BertConfig
from pretrain.config.stages import stages


def _shortest(setup: Setup[BertConfig]) -> int:
    return 5 if setup.config.data.nsp else 3


def _length(setup: Setup[BertConfig]) -> int:
    return stages(setup.config)[0].batch.sequence_length


RULES: tuple[Rule[BertConfig], ...] = (
    Rule(
        name="a sample of a BERT holds text",
        key="batch.sequence_length",
        holds=lambda s: _length(s) >= _shortest(s),
        message=lambda s: (
            f"{_length(s)} leaves no token beside [CLS] and [SEP] "
            + ("in each of two segments" if s.config.data.nsp else "in a segment")
        ),
        remedies={"batch.sequence_length": lambda s: range(_shortest(s), 64)},
    ),
    only_with("only spans have a length", "data.max_span", "data.masking", "span"),
    unless(
        "only pairs are cut short",
        "data.short_sequence_probability",
        lambda s: not s.config.data.nsp,
        "has no effect with data.nsp false; remove it",
    ),
)
