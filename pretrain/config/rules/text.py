"""Rules between keys of a run on text: those without which it would fail or be wrong."""

import math

from data_tools.counts import are, counted
from pretrain.config import derived
from pretrain.config.rule import (
    PROCESSES,
    Rule,
    Setup,
    divisors_near,
    multiples_near,
)
from pretrain.config.sections import TextConfig

TextRule = Rule[TextConfig]
TextSetup = Setup[TextConfig]


def _heads_fit(setup: TextSetup) -> bool:
    model = setup.config.model
    return model.hidden_size % model.num_attention_heads == 0


def _layer_unit(setup: TextSetup) -> int:
    parallel = setup.config.parallel
    return parallel.pipeline * (parallel.virtual_pipeline or 1)


def _batch_unit(setup: TextSetup) -> int:
    """Samples of one micro-batch on every replica."""
    return setup.config.batch.micro_size * (setup.data_parallel or 1)


def _step_unit(setup: TextSetup) -> int:
    """The global batch is a multiple of this; the interleaved schedule wants full rounds of stages."""
    parallel = setup.config.parallel
    return _batch_unit(setup) * (parallel.pipeline if parallel.virtual_pipeline else 1)


def _samples_per_replica(setup: TextSetup) -> int:
    replicas = setup.data_parallel or 1
    whole = setup.config.parallel.pipeline if setup.config.parallel.virtual_pipeline else 1
    return setup.config.batch.global_size // (replicas * whole)


def _sequence_unit(setup: TextSetup) -> int:
    parallel = setup.config.parallel
    zigzag = 2 * parallel.context if parallel.context > 1 else 1
    shards = parallel.context * parallel.tensor if parallel.sequence else 1
    return math.lcm(zigzag, shards)


MODEL_RULES: tuple[TextRule, ...] = (
    Rule(
        name="heads divide hidden",
        key="model.num_attention_heads",
        applies=lambda s: True,
        holds=_heads_fit,
        message=lambda s: (
            f"{s.config.model.num_attention_heads} heads do not divide "
            f"model.hidden_size {s.config.model.hidden_size}"
        ),
        remedies={
            "model.num_attention_heads": lambda s: divisors_near(
                s.config.model.num_attention_heads, s.config.model.hidden_size
            ),
            "model.hidden_size": lambda s: multiples_near(
                s.config.model.hidden_size, s.config.model.num_attention_heads
            ),
        },
    ),
    Rule(
        name="rotary head size is even",
        key="model.num_attention_heads",
        applies=lambda s: s.config.model.position_embedding == "rotary" and _heads_fit(s),
        holds=lambda s: s.config.model.hidden_size // s.config.model.num_attention_heads % 2 == 0,
        message=lambda s: (
            f"rotary positions turn pairs of numbers, and {s.config.model.num_attention_heads} heads of "
            f"model.hidden_size {s.config.model.hidden_size} have the odd size "
            f"{s.config.model.hidden_size // s.config.model.num_attention_heads}"
        ),
        remedies={
            "model.num_attention_heads": lambda s: divisors_near(
                s.config.model.num_attention_heads, s.config.model.hidden_size
            ),
            "model.hidden_size": lambda s: multiples_near(
                s.config.model.hidden_size, 2 * s.config.model.num_attention_heads
            ),
        },
    ),
    Rule(
        name="query groups divide heads",
        key="model.num_query_groups",
        applies=lambda s: s.config.model.num_query_groups is not None,
        holds=lambda s: s.config.model.num_attention_heads % derived.query_groups(s.config.model) == 0,
        message=lambda s: (
            f"{s.config.model.num_query_groups} query groups do not divide "
            f"model.num_attention_heads {s.config.model.num_attention_heads}"
        ),
        remedies={
            "model.num_query_groups": lambda s: divisors_near(
                derived.query_groups(s.config.model), s.config.model.num_attention_heads
            )
        },
    ),
)

TENSOR_RULES: tuple[TextRule, ...] = (
    Rule(
        name="tensor divides heads",
        key="parallel.tensor",
        applies=lambda s: True,
        holds=lambda s: s.config.model.num_attention_heads % s.config.parallel.tensor == 0,
        message=lambda s: (
            f"tensor parallel size {s.config.parallel.tensor} does not divide "
            f"model.num_attention_heads {s.config.model.num_attention_heads}"
        ),
        remedies={
            "parallel.tensor": lambda s: divisors_near(
                s.config.parallel.tensor, s.config.model.num_attention_heads
            ),
            "model.num_attention_heads": lambda s: divisors_near(
                s.config.model.num_attention_heads, s.config.model.hidden_size
            ),
        },
    ),
    Rule(
        name="tensor divides query groups",
        key="parallel.tensor",
        applies=lambda s: s.config.model.num_query_groups is not None,
        holds=lambda s: derived.query_groups(s.config.model) % s.config.parallel.tensor == 0,
        message=lambda s: (
            f"tensor parallel size {s.config.parallel.tensor} does not divide "
            f"model.num_query_groups {s.config.model.num_query_groups}"
        ),
        remedies={
            "parallel.tensor": lambda s: divisors_near(
                s.config.parallel.tensor, derived.query_groups(s.config.model)
            ),
            "model.num_query_groups": lambda s: divisors_near(
                derived.query_groups(s.config.model), s.config.model.num_attention_heads
            ),
        },
    ),
    Rule(
        name="tensor divides feed-forward",
        key="parallel.tensor",
        applies=lambda s: True,
        holds=lambda s: derived.ffn_hidden_size(s.config.model) % s.config.parallel.tensor == 0,
        message=lambda s: (
            f"tensor parallel size {s.config.parallel.tensor} does not divide the feed-forward width "
            f"model.ffn_hidden_size {derived.ffn_hidden_size(s.config.model)}"
        ),
        remedies={
            "parallel.tensor": lambda s: divisors_near(
                s.config.parallel.tensor, derived.ffn_hidden_size(s.config.model)
            ),
            "model.ffn_hidden_size": lambda s: multiples_near(
                derived.ffn_hidden_size(s.config.model), s.config.parallel.tensor
            ),
        },
    ),
    Rule(
        name="tensor divides padded vocabulary",
        key="model.vocab_multiple",
        applies=lambda s: True,
        holds=lambda s: s.config.model.vocab_multiple % s.config.parallel.tensor == 0,
        message=lambda s: (
            f"the vocabulary is padded to a multiple of {s.config.model.vocab_multiple}, "
            f"which parallel.tensor {s.config.parallel.tensor} does not divide"
        ),
        remedies={
            "model.vocab_multiple": lambda s: multiples_near(
                s.config.model.vocab_multiple, s.config.parallel.tensor
            ),
            "parallel.tensor": lambda s: divisors_near(
                s.config.parallel.tensor, s.config.model.vocab_multiple
            ),
        },
    ),
)

PIPELINE_RULES: tuple[TextRule, ...] = (
    Rule(
        name="layers fill the pipeline",
        key="model.num_layers",
        applies=lambda s: True,
        holds=lambda s: s.config.model.num_layers % _layer_unit(s) == 0,
        message=lambda s: (
            f"{counted(s.config.model.num_layers, 'layer')} {are(s.config.model.num_layers)} no "
            "multiple of pipeline x virtual_pipeline = "
            f"{s.config.parallel.pipeline} x {s.config.parallel.virtual_pipeline or 1}"
        ),
        remedies={
            "model.num_layers": lambda s: multiples_near(s.config.model.num_layers, _layer_unit(s)),
            "parallel.pipeline": lambda s: divisors_near(
                s.config.parallel.pipeline, s.config.model.num_layers
            ),
            "parallel.virtual_pipeline": lambda s: (
                divisors_near(s.config.parallel.virtual_pipeline, s.config.model.num_layers)
                if s.config.parallel.virtual_pipeline
                else ()
            ),
        },
    ),
    Rule(
        name="virtual pipeline needs a pipeline",
        key="parallel.virtual_pipeline",
        applies=lambda s: (s.config.parallel.virtual_pipeline or 1) > 1,
        holds=lambda s: s.config.parallel.pipeline > 1,
        message=lambda s: (
            f"{s.config.parallel.virtual_pipeline} model chunks per stage need parallel.pipeline of 2 or "
            f"more, got 1; remove virtual_pipeline or raise pipeline"
        ),
        remedies={
            "parallel.pipeline": lambda s: (
                size for size in divisors_near(2, s.config.model.num_layers) if size > 1
            )
        },
    ),
    Rule(
        name="interleaved schedule needs whole groups of micro-batches",
        key="batch.global_size",
        applies=lambda s: (
            (s.config.parallel.virtual_pipeline or 1) > 1 and s.config.batch.global_size % _batch_unit(s) == 0
        ),
        holds=lambda s: s.config.batch.global_size % _step_unit(s) == 0,
        message=lambda s: (
            f"batch.global_size {s.config.batch.global_size} makes "
            f"{s.config.batch.global_size // _batch_unit(s)} micro-batches"
            f"{' per replica' if s.data_parallel else ''}; with virtual_pipeline their number must be a "
            f"multiple of parallel.pipeline {s.config.parallel.pipeline}"
        ),
        remedies={
            "batch.global_size": lambda s: multiples_near(s.config.batch.global_size, _step_unit(s)),
            "batch.micro_size": lambda s: divisors_near(s.config.batch.micro_size, _samples_per_replica(s)),
        },
    ),
)

BATCH_RULES: tuple[TextRule, ...] = (
    Rule(
        name="world holds whole replicas",
        key=PROCESSES,
        applies=lambda s: s.world_size is not None,
        holds=lambda s: s.data_parallel is not None,
        message=lambda s: (
            f"{counted(s.world_size or 1, 'process')} {are(s.world_size or 1)} no multiple of "
            "tensor x pipeline x context = "
            f"{s.config.parallel.tensor} x {s.config.parallel.pipeline} x {s.config.parallel.context}"
        ),
        remedies={
            PROCESSES: lambda s: multiples_near(s.world_size or 1, s.config.replica_ranks),
            "parallel.tensor": lambda s: divisors_near(s.config.parallel.tensor, s.world_size or 1),
            "parallel.pipeline": lambda s: divisors_near(s.config.parallel.pipeline, s.world_size or 1),
            "parallel.context": lambda s: divisors_near(s.config.parallel.context, s.world_size or 1),
        },
    ),
    Rule(
        name="batch divides into micro-batches",
        key="batch.global_size",
        applies=lambda s: True,
        holds=lambda s: s.config.batch.global_size % _batch_unit(s) == 0,
        message=lambda s: (
            f"{counted(s.config.batch.global_size, 'sample')} {are(s.config.batch.global_size)} no "
            "multiple of micro_size"
            + (
                f" x data parallel size = {s.config.batch.micro_size} x {s.data_parallel}"
                if s.data_parallel
                else f" {s.config.batch.micro_size}"
            )
        ),
        remedies={
            "batch.global_size": lambda s: multiples_near(s.config.batch.global_size, _step_unit(s)),
            "batch.micro_size": lambda s: divisors_near(s.config.batch.micro_size, _samples_per_replica(s)),
            PROCESSES: lambda s: multiples_near(s.world_size, s.config.replica_ranks) if s.world_size else (),
        },
    ),
    Rule(
        name="sequence divides over context and sequence parallel ranks",
        key="batch.sequence_length",
        applies=lambda s: True,
        holds=lambda s: s.config.batch.sequence_length % _sequence_unit(s) == 0,
        message=lambda s: (
            f"{counted(s.config.batch.sequence_length, 'token')} "
            f"{are(s.config.batch.sequence_length)} no multiple of {_sequence_unit(s)}: context "
            f"parallelism takes 2 x {s.config.parallel.context} pieces"
            + (
                f", sequence parallelism context x tensor = "
                f"{s.config.parallel.context} x {s.config.parallel.tensor}"
                if s.config.parallel.sequence
                else ""
            )
        ),
        remedies={
            "batch.sequence_length": lambda s: multiples_near(
                s.config.batch.sequence_length, _sequence_unit(s)
            ),
            "parallel.context": lambda s: divisors_near(
                s.config.parallel.context, s.config.batch.sequence_length
            ),
        },
    ),
)

RULES: tuple[TextRule, ...] = (*MODEL_RULES, *TENSOR_RULES, *PIPELINE_RULES, *BATCH_RULES)
