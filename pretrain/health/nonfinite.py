"""Which rank made a number that is not finite, of which samples: asked once a step has failed.

A healthy step pays for none of this. The weights are as before the step, and samples and dropout are
functions of it, so the step is computed a second time with every tensor watched and gradients kept on their
ranks.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pretrain.data.feed import AnyBatch
from pretrain.health.gather import gather_texts
from pretrain.health.probe import Probe, Sighting, is_finite
from pretrain.health.replicas import ranks
from pretrain.model import LocalLoss, Model
from pretrain.models.logical import logical_parts

_SHOWN = 8


@dataclass(frozen=True)
class Evidence:
    """What one rank found."""

    replica: int
    """Data parallel rank: whose samples it saw."""
    weights: dict[str, int] = field(default_factory=dict)
    """How many elements of a weight are not finite."""
    losses: list[list[int]] = field(default_factory=list)
    """Samples of each micro-batch whose loss was not finite in the step itself."""
    reduced: list[str] = field(default_factory=list)
    """Parameters whose gradient was not finite after the sum over ranks, the first few."""
    largest: tuple[str, float] | None = None
    """The gradient with the largest magnitude after the sum, where all are finite."""
    sightings: list[tuple[Sighting, list[int]]] = field(default_factory=list)
    """First bad tensor of each micro-batch in the replay, with the samples."""


def find_nonfinite(
    model: Model,
    batches: Sequence[AnyBatch],
    local: LocalLoss,
    reseed: Callable[[], None],
    norm: Callable[[], float],
) -> str:
    """Compute a failed step again and say where its first number that is not finite comes from.

    All ranks call this together and get the same text. Gradients are not usable afterwards.

    Args:
        model: as it was in the step, its gradients still there.
        batches: this rank's micro-batches of the step.
        local: their losses in the step.
        reseed: sets the random streams as at the start of the step.
        norm: prepares the reduced gradients and gives their norm.
    """
    first = _look(model, batches, local)
    reseed()
    probe = Probe(model.chunks, model.wrapped, model.layout)
    with probe.hooks():
        probe.note_losses(model.replay(batches, probe.watch).micro_batches)
    seen = [(each, list(batches[each.micro_batch].sample_ids)) for each in probe.sightings]
    mine = asdict(first) | {"sightings": [[asdict(each), samples] for each, samples in seen]}
    texts = gather_texts(model.layout.world, json.dumps(mine))
    everyone = [_evidence(json.loads(text)) for text in texts]
    if any(each.weights or each.sightings for each in everyone):
        return describe(everyone, repeats=True)
    reseed()
    again = model.backward(batches)
    totals, (norms,) = again.over_world(norm())
    return describe(everyone, repeats=not math.isfinite(norms + totals.loss))


def _evidence(tree: dict[str, Any]) -> Evidence:
    sightings = [(Sighting(**each), samples) for each, samples in tree["sightings"]]
    return Evidence(**(tree | {"sightings": sightings}))


@torch.no_grad()
def _look(model: Model, batches: Sequence[AnyBatch], local: LocalLoss) -> Evidence:
    """What can be seen before anything is computed again."""
    weights, reduced = {}, []
    largest = ("", -1.0)
    for part in logical_parts(model.chunks, model.layout):
        bad = int((~torch.isfinite(part.view(part.parameter.view(-1)))).sum())
        if bad:
            weights[part.key] = bad
        gradient = part.view(part.parameter.main_grad.view(-1))  # type: ignore[attr-defined]
        if is_finite(gradient):
            largest = max(largest, (part.key, float(gradient.abs().max())), key=lambda pair: pair[1])
        else:
            reduced.append(part.key)
    losses = [
        list(batches[index].sample_ids)
        for index, loss in enumerate(local.micro_batches)
        if not is_finite(loss)
    ]
    return Evidence(model.layout.data_rank, weights, losses, reduced[:_SHOWN], None if reduced else largest)


def describe(everyone: Sequence[Evidence], *, repeats: bool) -> str:
    """Lines about the cause, the surest kind that there is.

    Args:
        everyone: evidence of every rank, in order.
        repeats: whether the step failed again when it was computed again.
    """
    lines = _bad_weights(everyone) or _sightings(everyone)
    if not lines and repeats:
        lines = _reduction(everyone)
    elif not lines:
        lines = [
            *_losses(everyone),
            *_reduction(everyone),
            "computed again from the same weights and samples, all of it is finite: a transient fault of "
            "memory or arithmetic, not of data or settings",
        ]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])


def _bad_weights(everyone: Sequence[Evidence]) -> list[str]:
    names = sorted({name for each in everyone for name in each.weights})
    lines = []
    for name in names:
        holders = [rank for rank, each in enumerate(everyone) if name in each.weights]
        counts = [everyone[rank].weights[name] for rank in holders]
        lines.append(f"{ranks(holders)}: weight {name} holds {max(counts)} elements that are not finite")
    return lines


def _sightings(everyone: Sequence[Evidence]) -> list[str]:
    """For each micro-batch of each replica, the ranks on which the first bad tensor appeared."""
    found: dict[tuple[int, int], list[tuple[Sighting, int, list[int]]]] = {}
    for rank, evidence in enumerate(everyone):
        for sighting, samples in evidence.sightings:
            found.setdefault((evidence.replica, sighting.micro_batch), []).append((sighting, rank, samples))
    lines = []
    for (_, micro_batch), several in sorted(found.items()):
        first, _, samples = min(several)
        at = [rank for sighting, rank, _ in several if sighting == first]
        lines.append(f"{ranks(at)}: first {first.what} in micro-batch {micro_batch}, {_samples(samples)}")
    return lines


def _losses(everyone: Sequence[Evidence]) -> list[str]:
    return [
        f"rank {rank}: the loss of {_samples(samples)}"
        for rank, evidence in enumerate(everyone)
        for samples in evidence.losses
    ]


def _reduction(everyone: Sequence[Evidence]) -> list[str]:
    """Every rank's own numbers are finite: they became too large together."""
    at = [rank for rank, each in enumerate(everyone) if each.reduced]
    if at:
        names = ", ".join(dict.fromkeys(name for rank in at for name in everyone[rank].reduced[:_SHOWN]))
        return [
            f"{ranks(at)}: each rank's own gradients are finite, their sum over ranks and micro-batches "
            f"is not: {names}"
        ]
    name, size = max(
        (each.largest for each in everyone if each.largest is not None), key=lambda pair: pair[1]
    )
    return [f"every gradient is finite, their norm is not; the largest is {size:.4g}, in {name}"]


def _samples(sample_ids: Sequence[int]) -> str:
    return f"sample{'s' if len(sample_ids) > 1 else ''} {', '.join(map(str, sample_ids))}"
