"""The plan of a transformer on a cluster: memory by stage, FLOPs, communication and time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pretrain.config import derived
from pretrain.config.hardware import Cluster
from pretrain.config.sections import TextConfig
from pretrain.megatron.flops import flops_per_token
from pretrain.megatron.model_spec import SpecOf
from pretrain.plan.cost_counter import Work
from pretrain.plan.states import States, rank_states
from pretrain.plan.timing import Communication, StepTime, step_time, step_traffic
from pretrain.plan.trace import Trace, role_of, trace


class Pass(NamedTuple):
    """One micro-batch through one chunk."""

    chunk: int
    forward: bool


def passes(pipeline: int, stage: int, chunks: int, micro_batches: int) -> Iterator[Pass]:
    """All passes of one step on pipeline stage `stage`, in their order.

    One forward, one backward (Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU
    Clusters Using Megatron-LM", section 2.2), as megatron-core's schedules run it, interleaved or not.

    Args:
        pipeline: stages.
        stage: from 0.
        chunks: model chunks per stage; more than one interleaves.
        micro_batches: of one step and replica; with several chunks a multiple of `pipeline`.
    """
    total = chunks * micro_batches
    ahead = pipeline - stage - 1 if chunks == 1 else 2 * (pipeline - stage - 1) + (chunks - 1) * pipeline
    ahead = min(ahead, total)
    for index in range(total + ahead):
        if index < total:
            yield Pass(_chunk(index, pipeline, chunks), forward=True)
        if index >= ahead:
            yield Pass(chunks - 1 - _chunk(index - ahead, pipeline, chunks), forward=False)


def _chunk(index: int, pipeline: int, chunks: int) -> int:
    """The chunk of pass number `index` of one direction: as many micro-batches as stages, in turn."""
    return index // pipeline % chunks


def bubble(pipeline: int, chunks: int, micro_batches: int) -> float:
    """Share of a step that a stage waits for others: (p - 1) / (v m + p - 1), all passes being equal."""
    idle = pipeline - 1
    return idle / (chunks * micro_batches + idle)


@dataclass(frozen=True)
class StageMemory:
    """Bytes on the fullest rank of one pipeline stage, the first of its replicas."""

    stage: int
    states: States
    activations: int
    buffers: int
    """What collectives keep."""

    @property
    def total(self) -> int:
        return self.states.total + self.activations + self.buffers


@dataclass(frozen=True)
class TextPlan:
    """What follows from a config, a vocabulary and a cluster."""

    parameters: int
    replicas: int
    micro_batches: int
    stages: tuple[StageMemory, ...]
    traffic: tuple[Communication, ...]
    time: StepTime
    bubble: float
    """Share of a step, if all stages were alike."""
    tokens_per_step: int
    flops_per_token: float
    """FLOPs of the model, forward and backward."""
    hardware_flops_per_step: float
    """Counted on all ranks of the cluster, recomputation included."""
    mfu: float
    """Share of the peak that the model's own FLOPs are, in the estimated time."""

    @property
    def fullest(self) -> StageMemory:
        """The stage whose ranks need the most memory."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.time.total


def held_by_stage(config: TextConfig, vocab_size: int, size: int, spec_of: SpecOf) -> tuple[States, ...]:
    """What the first rank of each pipeline stage keeps in a world of `size`.

    Stages between the first and the last are alike, so only one of them is built.
    """
    pipeline = config.parallel.pipeline
    built = {
        stage: rank_states(config, vocab_size, stage * size // pipeline, size, spec_of)
        for stage in {0, min(1, pipeline - 1), pipeline - 1}
    }
    return tuple(built[stage] if stage in built else built[1] for stage in range(pipeline))


def plan_text(
    config: TextConfig,
    vocab_size: int,
    cluster: Cluster,
    spec_of: SpecOf,
    traced: Trace | None = None,
    held: tuple[States, ...] | None = None,
) -> TextPlan:
    """Plan a config that fits the cluster (`config.rules`).

    Args:
        vocab_size: ids of the tokenizer, without padding.
        spec_of: makes the model spec.
        traced: what micro-batches cost, if known.
        held: what stages keep from step to step, if known.
    """
    traced = traced or trace(config, vocab_size, spec_of, fused_dropout=cluster.name != "cpu")
    pipeline, size = config.parallel.pipeline, cluster.size
    replicas = size // config.replica_ranks
    micro_batches = config.batch.global_size // (config.batch.micro_size * replicas)
    stages = tuple(
        StageMemory(
            stage,
            states,
            peak_activations(config, traced, stage, micro_batches),
            traced.buffers,
        )
        for stage, states in enumerate(held or held_by_stage(config, vocab_size, size, spec_of))
    )
    work = [stage_work(config, traced, stage) for stage in range(pipeline)]
    largest = max((stage.states for stage in stages), key=lambda states: states.parameters)
    busiest = max(work, key=lambda each: each.flops)
    tokens = config.batch.global_size * config.batch.sequence_length
    traffic = step_traffic(
        config, cluster, traced, largest, busiest * micro_batches, micro_batches, _tied(config, vocab_size)
    )
    time = step_time(config, cluster, work, largest, traffic, micro_batches)
    flops = flops_per_token(config, vocab_size, config.batch.sequence_length)
    everywhere = sum(each.flops for each in work) * micro_batches * (size // pipeline)
    return TextPlan(
        parameters=derived.count_parameters(config, vocab_size).total,
        replicas=replicas,
        micro_batches=micro_batches,
        stages=stages,
        traffic=tuple(traffic),
        time=time,
        bubble=bubble(pipeline, config.parallel.virtual_pipeline or 1, micro_batches),
        tokens_per_step=tokens,
        flops_per_token=flops,
        hardware_flops_per_step=everywhere,
        mfu=flops * tokens / (time.total * size * cluster.peak(config.precision)),
    )


def stage_work(config: TextConfig, traced: Trace, stage: int) -> Work:
    """The work of one micro-batch on a stage, forward and backward."""
    found = Work()
    for chunk in range(config.parallel.virtual_pipeline or 1):
        cost = traced.chunks[role_of(config, stage, chunk)]
        found = found + cost.forward + cost.backward
    return found


def _tied(config: TextConfig, vocab_size: int) -> int:
    """Elements that the first and the last stage share on a rank."""
    if not getattr(config.model, "tie_embeddings", True):
        return 0
    rows = derived.padded_vocab_size(vocab_size, config.model.vocab_multiple)
    return rows * config.model.hidden_size // config.parallel.tensor


IN_TRANSIT = 3
"""Hidden states being sent in interleaved schedules: two received ahead, one being sent."""


def peak_activations(config: TextConfig, traced: Trace, stage: int, micro_batches: int) -> int:
    """Bytes at the worst moment of a step, including the inputs of all its micro-batches.

    Args:
        traced: what its chunks cost.
        stage: pipeline stage, from 0.
        micro_batches: of one step and replica.
    """
    chunks = config.parallel.virtual_pipeline or 1
    costs = [traced.chunks[role_of(config, stage, chunk)] for chunk in range(chunks)]
    outstanding: Counter[int] = Counter()
    worst, pipeline = 0.0, config.parallel.pipeline
    # Warm-up takes fewer than (chunks + 1) x pipeline passes; after that the pattern repeats.
    for chunk, forward in passes(pipeline, stage, chunks, min(micro_batches, 4 * pipeline)):
        cost = costs[chunk]
        if not forward:
            outstanding[chunk] -= 1
        saved = sum(costs[other].saved * count for other, count in outstanding.items())
        worst = max(worst, saved + (cost.forward_peak if forward else cost.backward_peak))
        if forward:
            outstanding[chunk] += 1
    steady = chunks > 1 and micro_batches > pipeline
    transit = IN_TRANSIT * traced.hidden if steady else 0
    return round(worst) + transit + traced.input_bytes * micro_batches
