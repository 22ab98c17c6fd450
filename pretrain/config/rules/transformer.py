"""Rules between keys of a run on text without which it would fail or be wrong."""

import math

from data_tools.counts import are, counted
from pretrain.config import derived
from pretrain.config.rule import (
    PROCESSES,
    Rule,
    Setup,
    divides,
    divisors,
    divisors_near,
    multiple_of,
    multiples,
    number,
)
from pretrain.config.sections import TextConfig

TextRule = Rule[TextConfig]
TextSetup = Setup[TextConfig]

HIDDEN, HEADS, GROUPS = "model.hidden_size", "model.num_attention_heads", "model.num_query_groups"
FEED_FORWARD, LAYERS, VOCABULARY = "model.ffn_hidden_size", "model.num_layers", "model.vocab_multiple"
TENSOR, PIPELINE, CONTEXT = "parallel.tensor", "parallel.pipeline", "parallel.context"
GLOBAL_SIZE, MICRO_SIZE, SEQUENCE = "batch.global_size", "batch.micro_size", "batch.sequence_length"


def _groups(setup: TextSetup) -> int:
    return derived.query_groups(setup.config.model)


def _feed_forward(setup: TextSetup) -> int:
    return derived.ffn_hidden_size(setup.config.model)


def _grouped(setup: TextSetup) -> bool:
    return setup.config.model.num_query_groups is not None


def _shared_width(setup: TextSetup) -> bool:
    """Whether heads share the hidden size, as they do unless they have a size of their own."""
    return getattr(setup.config.model, "head_size", None) is None


def _head_size(setup: TextSetup) -> float:
    return setup.config.model.hidden_size / setup.config.model.num_attention_heads


def _interleaved(setup: TextSetup) -> bool:
    return (setup.config.parallel.virtual_pipeline or 1) > 1


def _layer_unit(setup: TextSetup) -> int:
    parallel = setup.config.parallel
    return parallel.pipeline * (parallel.virtual_pipeline or 1)


def _batch_unit(setup: TextSetup) -> int:
    """Samples of one micro-batch on every replica."""
    return setup.config.batch.micro_size * (setup.data_parallel or 1)


def _rounds(setup: TextSetup) -> int:
    """Micro-batches must be a multiple of this: the interleaved schedule needs full rounds of stages."""
    return setup.config.parallel.pipeline if setup.config.parallel.virtual_pipeline else 1


def _step_unit(setup: TextSetup) -> int:
    """The global batch must be a multiple of this."""
    return _batch_unit(setup) * _rounds(setup)


def _samples_per_replica(setup: TextSetup) -> int:
    return setup.config.batch.global_size // ((setup.data_parallel or 1) * _rounds(setup))


def _replica_ranks(setup: TextSetup) -> int:
    return setup.config.replica_ranks


def _sequence_unit(setup: TextSetup) -> int:
    parallel = setup.config.parallel
    zigzag = 2 * parallel.context if parallel.context > 1 else 1
    shards = parallel.context * parallel.tensor if parallel.sequence else 1
    return math.lcm(zigzag, shards)


def _sequence_text(setup: TextSetup) -> str:
    length, parallel = setup.config.batch.sequence_length, setup.config.parallel
    shards = f", sequence parallelism context x tensor = {parallel.context} x {parallel.tensor}"
    return (
        f"{counted(length, 'token')} {are(length)} not a multiple of {_sequence_unit(setup)}: context "
        f"parallelism takes 2 x {parallel.context} pieces{shards if parallel.sequence else ''}"
    )


def _batch_text(setup: TextSetup) -> str:
    size, micro_size = setup.config.batch.global_size, setup.config.batch.micro_size
    unit = (
        f" x data parallel size = {micro_size} x {setup.data_parallel}"
        if setup.data_parallel
        else f" {micro_size}"
    )
    return f"{counted(size, 'sample')} {are(size)} not a multiple of micro_size{unit}"


MODEL_RULES: tuple[TextRule, ...] = (
    divides(
        "heads divide hidden",
        HEADS,
        HIDDEN,
        "{model.num_attention_heads} heads do not divide model.hidden_size {model.hidden_size}",
        applies=_shared_width,
    ),
    Rule(
        name="rotary head size is even",
        key=HEADS,
        applies=lambda s: (
            s.config.model.position_embedding == "rotary" and _shared_width(s) and _head_size(s).is_integer()
        ),
        holds=lambda s: _head_size(s) % 2 == 0,
        message=lambda s: (
            f"rotary positions turn pairs of numbers, and {s.config.model.num_attention_heads} heads of "
            f"model.hidden_size {s.config.model.hidden_size} have the odd size {_head_size(s):.0f}"
        ),
        remedies=divisors(HEADS, number(HIDDEN))
        | multiples(HIDDEN, lambda s: 2 * s.config.model.num_attention_heads),
    ),
    divides(
        "query groups divide heads",
        GROUPS,
        HEADS,
        "{model.num_query_groups} query groups do not divide model.num_attention_heads "
        "{model.num_attention_heads}",
        applies=_grouped,
    ),
)

TENSOR_RULES: tuple[TextRule, ...] = (
    divides(
        "tensor divides heads",
        TENSOR,
        HEADS,
        "tensor parallel size {parallel.tensor} does not divide model.num_attention_heads "
        "{model.num_attention_heads}",
        remedies=divisors(HEADS, number(HIDDEN)),
    ),
    divides(
        "tensor divides query groups",
        TENSOR,
        GROUPS,
        "tensor parallel size {parallel.tensor} does not divide model.num_query_groups "
        "{model.num_query_groups}",
        applies=_grouped,
        remedies=divisors(GROUPS, number(HEADS)),
    ),
    divides(
        "tensor divides feed-forward",
        TENSOR,
        FEED_FORWARD,
        lambda s: (
            f"tensor parallel size {s.config.parallel.tensor} does not divide the feed-forward width "
            f"model.ffn_hidden_size {_feed_forward(s)}"
        ),
        value=_feed_forward,
    ),
    multiple_of(
        "tensor divides padded vocabulary",
        VOCABULARY,
        number(TENSOR),
        "the vocabulary is padded to a multiple of {model.vocab_multiple}, which parallel.tensor "
        "{parallel.tensor} does not divide",
        remedies=divisors(TENSOR, number(VOCABULARY)),
    ),
)

PIPELINE_RULES: tuple[TextRule, ...] = (
    multiple_of(
        "layers fill the pipeline",
        LAYERS,
        _layer_unit,
        lambda s: (
            f"{counted(s.config.model.num_layers, 'layer')} {are(s.config.model.num_layers)} no "
            "multiple of pipeline x virtual_pipeline = "
            f"{s.config.parallel.pipeline} x {s.config.parallel.virtual_pipeline or 1}"
        ),
        remedies=divisors(PIPELINE, number(LAYERS)) | divisors("parallel.virtual_pipeline", number(LAYERS)),
    ),
    Rule(
        name="virtual pipeline needs a pipeline",
        key="parallel.virtual_pipeline",
        applies=_interleaved,
        holds=lambda s: s.config.parallel.pipeline > 1,
        message=(
            "{parallel.virtual_pipeline} model chunks per stage need parallel.pipeline of 2 or more, got 1; "
            "remove virtual_pipeline or raise pipeline"
        ),
        remedies={PIPELINE: lambda s: (n for n in divisors_near(2, s.config.model.num_layers) if n > 1)},
    ),
    multiple_of(
        "interleaved schedule needs whole groups of micro-batches",
        GLOBAL_SIZE,
        _step_unit,
        lambda s: (
            f"batch.global_size {s.config.batch.global_size} makes "
            f"{s.config.batch.global_size // _batch_unit(s)} micro-batches"
            f"{' per replica' if s.data_parallel else ''}; with virtual_pipeline their number must be a "
            f"multiple of parallel.pipeline {s.config.parallel.pipeline}"
        ),
        applies=lambda s: _interleaved(s) and s.config.batch.global_size % _batch_unit(s) == 0,
        remedies=divisors(MICRO_SIZE, _samples_per_replica),
    ),
)

BATCH_RULES: tuple[TextRule, ...] = (
    Rule(
        name="world holds whole replicas",
        key=PROCESSES,
        applies=lambda s: s.world_size is not None,
        holds=lambda s: s.data_parallel is not None,
        message=lambda s: (
            f"{counted(s.world_size or 1, 'process')} {are(s.world_size or 1)} not a multiple of "
            "tensor x pipeline x context = "
            f"{s.config.parallel.tensor} x {s.config.parallel.pipeline} x {s.config.parallel.context}"
        ),
        remedies=multiples(PROCESSES, _replica_ranks)
        | divisors(TENSOR, number(PROCESSES))
        | divisors(PIPELINE, number(PROCESSES))
        | divisors(CONTEXT, number(PROCESSES)),
    ),
    Rule(
        name="batch divides into micro-batches",
        key=GLOBAL_SIZE,
        holds=lambda s: s.config.batch.global_size % _batch_unit(s) == 0,
        message=_batch_text,
        remedies=multiples(GLOBAL_SIZE, _step_unit)
        | divisors(MICRO_SIZE, _samples_per_replica)
        | multiples(PROCESSES, _replica_ranks),
    ),
    multiple_of(
        "sequence divides over context and sequence parallel ranks",
        SEQUENCE,
        _sequence_unit,
        _sequence_text,
        remedies=divisors(CONTEXT, number(SEQUENCE)),
    ),
)

RULES: tuple[TextRule, ...] = (*MODEL_RULES, *TENSOR_RULES, *PIPELINE_RULES, *BATCH_RULES)
