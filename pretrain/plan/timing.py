"""How long a step takes: a roofline over the operations that were counted, then the pipeline around them.

Every operation takes the longest of its arithmetic, its memory traffic and the time to launch it. Collectives
of tensor and context parallelism are waited for; the gradients' reduction and the optimizer come once a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config.hardware import KERNEL_SECONDS, SPREAD, STREAM, Cluster
from pretrain.config.sections import TextConfig
from pretrain.plan.cost_counter import Work
from pretrain.plan.states import States
from pretrain.plan.trace import Trace


@dataclass(frozen=True)
class Communication:
    """One group's share of a step."""

    group: str
    size: int
    crosses_nodes: bool
    sent: float
    """Bytes that one rank sends in a step."""
    seconds: float
    """At the bandwidth of the slowest link on the way."""


def group_spans(config: TextConfig, replicas: int) -> dict[str, tuple[int, int]]:
    """Group -> (ranks in it, consecutive ranks that it spans).

    Tensor parallel ranks are neighbours, then context, data and pipeline parallel ones.
    """
    p = config.parallel
    sizes = {"tensor": p.tensor, "context": p.context, "data": replicas, "pipeline": p.pipeline}
    spans, within = {}, 1
    for name, size in sizes.items():
        within *= size
        spans[name] = (size, within)
    # Gradients are reduced over context and data parallel ranks together.
    spans["data"] = (p.context * replicas, spans["data"][1])
    return spans


def step_traffic(
    config: TextConfig,
    cluster: Cluster,
    traced: Trace,
    states: States,
    work: Work,
    micro_batches: int,
    shared_embedding: int,
) -> list[Communication]:
    """The communication of all groups of more than one rank.

    Args:
        traced: what micro-batches cost.
        states: of the stage that holds most.
        work: of all micro-batches of a step on the busiest stage.
        micro_batches: of a step and replica.
        shared_embedding: elements that the first and the last stage each hold of a tied embedding.
    """
    p = config.parallel
    replicas = cluster.size // config.replica_ranks
    spans = group_spans(config, replicas)
    owners = spans["data"][0]
    weight_bytes = 2 if config.precision == "bf16" else 4
    # Reduce-scatter of fp32 gradients and all-gather of the weights, or an all-reduce (both halves in fp32).
    per_parameter = 4 + weight_bytes if p.distributed_optimizer else 8
    boundaries = (p.virtual_pipeline or 1) if p.pipeline > 1 else 0
    sent = {
        "tensor": work.tensor_sent,
        "context": work.context_sent,
        "data": per_parameter * states.parameters * (owners - 1) / owners,
        "pipeline": 2 * boundaries * traced.hidden * micro_batches,
    }
    found = [
        Communication(name, size, cluster.crosses(span), sent[name], sent[name] / cluster.rate(span))
        for name, (size, span) in spans.items()
        if size > 1
    ]
    if shared_embedding and p.pipeline > 1:
        span, bytes_sent = spans["pipeline"][1], 4 * shared_embedding
        found.append(
            Communication("embedding", 2, cluster.crosses(span), bytes_sent, bytes_sent / cluster.rate(span))
        )
    return found


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by cause."""

    compute: float
    """Passes of the busiest stage."""
    waits: float
    """Waiting for tensor and context parallel collectives, and for messages between stages."""
    bubble: float
    """Waiting for the other stages of the pipeline."""
    reduction: float
    """Gradients and weights over replicas, as far as nothing hides it."""
    update: float
    """The optimizer."""

    @property
    def total(self) -> float:
        return self.compute + self.waits + self.bubble + self.reduction + self.update

    @property
    def fastest(self) -> float:
        """The lower end of the range."""
        return self.total * (1 - SPREAD)

    @property
    def slowest(self) -> float:
        """The upper end of the range."""
        return self.total * (1 + SPREAD)


def seconds_of(work: Work, cluster: Cluster, precision: str) -> float:
    """Seconds of operations on one card, without collectives."""
    gpu, peak = cluster.gpu, cluster.peak(precision)
    busy = (
        work.matmul_flops / (peak * gpu.matmul)
        + work.attention_flops / (peak * gpu.attention)
        + work.moved / (gpu.bandwidth * STREAM)
    )
    return max(busy, work.kernels * KERNEL_SECONDS)


def step_time(
    config: TextConfig,
    cluster: Cluster,
    work: Sequence[Work],
    states: States,
    traffic: Sequence[Communication],
    micro_batches: int,
) -> StepTime:
    """Estimate a step.

    Args:
        work: of one micro-batch on each pipeline stage.
        states: of the stage that holds most.
        traffic: of the step.
        micro_batches: of a step and replica.
    """
    p = config.parallel
    chunks = p.virtual_pipeline or 1
    spans = group_spans(config, cluster.size // config.replica_ranks)
    waits = [
        each.tensor_sent / cluster.rate(spans["tensor"][1])
        + each.context_sent / cluster.rate(spans["context"][1])
        for each in work
    ]
    computes = [seconds_of(each, cluster, config.precision) for each in work]
    both = [compute + wait for compute, wait in zip(computes, waits, strict=True)]
    slowest = max(range(len(work)), key=lambda stage: both[stage])
    sent = {each.group: each.seconds for each in traffic}
    # Interleaved schedules send while they compute.
    between = sent.get("pipeline", 0.0) if chunks == 1 else 0.0
    reduction = sent.get("data", 0.0)
    if p.overlap_grad_reduce:  # hidden by the last backward pass, two thirds of a micro-batch
        reduction = max(reduction - both[slowest] * 2 / 3, 0.1 * reduction)
    # Gradients, moments and master weights are read, moments, master weights and weights written.
    share = states.optimizer / 12 if config.precision == "bf16" else states.optimizer / 8
    update = (states.gradients + 30 * share) / (cluster.gpu.bandwidth * STREAM)
    return StepTime(
        compute=micro_batches * computes[slowest],
        waits=micro_batches * waits[slowest] + between,
        bubble=(p.pipeline - 1) / chunks * sum(both) / len(both),
        reduction=reduction + sent.get("embedding", 0.0),
        update=update,
    )
