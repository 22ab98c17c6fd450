"""What a rank sends in one step, to which group, and whether that crosses nodes."""

from dataclasses import dataclass

from pretrain.config.hardware import Cluster
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
