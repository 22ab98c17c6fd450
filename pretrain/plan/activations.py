"""The most memory that activations take on a pipeline stage, from the pipeline order."""

from collections import Counter

from pretrain.config.sections import TextConfig
from pretrain.plan.pipeline_order import passes
from pretrain.plan.trace import Trace, role_of

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
