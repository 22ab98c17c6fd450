"""What ranks found out about a step whose numbers are not finite, and the lines that report it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data_tools.counts import are, counted
from pretrain.distributed.ranks import in_runs, some_ranks
from pretrain.health.probe import Sighting, is_finite

_SHOWN = 8


@dataclass(frozen=True)
class Evidence:
    """What one rank found."""

    replica: int
    """Index of the replica; its ranks pass numbers to each other in the forward pass."""
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

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Evidence":
        """From the output of `dataclasses.asdict` and JSON."""
        sightings = [(Sighting(**each), samples) for each, samples in tree["sightings"]]
        return cls(**(tree | {"sightings": sightings}))


@dataclass(frozen=True)
class Weight:
    """A weight, or this rank's part of it."""

    name: str
    tensor: Tensor
    gradient: Tensor | None = None
    """The gradient after the sum over ranks."""


@torch.no_grad()
def look(replica: int, weights: Iterable[Weight], losses: Iterable[Sequence[int]] = ()) -> Evidence:
    """Inspect the state that a step has left, before anything is computed again.

    Args:
        replica: as in `Evidence`.
        weights: of this rank, with the gradients of the step.
        losses: as in `Evidence`.
    """
    bad, reduced = {}, []
    largest: tuple[str, float] | None = None
    for each in weights:
        if not is_finite(each.tensor):
            bad[each.name] = int((~torch.isfinite(each.tensor)).sum())
        if each.gradient is None or not each.gradient.numel():
            continue
        if not is_finite(each.gradient):
            reduced.append(each.name)
            continue
        size = float(each.gradient.abs().max())
        if largest is None or size > largest[1]:
            largest = each.name, size
    return Evidence(
        replica, bad, [list(each) for each in losses], reduced[:_SHOWN], None if reduced else largest
    )


def describe(everyone: Sequence[Evidence], *, repeats: bool) -> str:
    """Lines about the cause, from the most reliable kind of evidence that there is.

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
        elements = counted(max(counts), "element")
        lines.append(
            f"{some_ranks(holders)}: weight {name} holds {elements} that {are(max(counts))} not finite"
        )
    return lines


def _sightings(everyone: Sequence[Evidence]) -> list[str]:
    """For each micro-batch of each replica, the ranks on which the first bad tensor appeared."""
    found: dict[tuple[int, int], list[tuple[Sighting, int, list[int]]]] = {}
    for rank, evidence in enumerate(everyone):
        for sighting, samples in evidence.sightings:
            found.setdefault((evidence.replica, sighting.micro_batch), []).append((sighting, rank, samples))
    lines = []
    for (_, micro_batch), several in sorted(found.items()):
        first, _, _ = min(several)
        at = [(rank, samples) for sighting, rank, samples in several if sighting == first]
        numbers = sorted({number for _, samples in at for number in samples})
        of = f", {_samples(numbers)}" if numbers else ""
        lines.append(
            f"{some_ranks([rank for rank, _ in at])}: first {first.what} in micro-batch {micro_batch}{of}"
        )
    return lines


def _losses(everyone: Sequence[Evidence]) -> list[str]:
    return [
        f"rank {rank}: the loss of {_samples(samples)}"
        for rank, evidence in enumerate(everyone)
        for samples in evidence.losses
    ]


def _reduction(everyone: Sequence[Evidence]) -> list[str]:
    """Every rank's own numbers are finite: they became too large only when summed over ranks."""
    at = [rank for rank, each in enumerate(everyone) if each.reduced]
    if at:
        names = ", ".join(dict.fromkeys(name for rank in at for name in everyone[rank].reduced[:_SHOWN]))
        return [
            f"{some_ranks(at)}: each rank's own gradients are finite, their sum over ranks and micro-batches "
            f"is not: {names}"
        ]
    found = [each.largest for each in everyone if each.largest is not None]
    if not found:
        return []
    name, size = max(found, key=lambda pair: pair[1])
    return [f"every gradient is finite, their norm is not; the largest is {size:.4g}, in {name}"]


def _samples(sample_ids: Sequence[int]) -> str:
    """`sample 3`, `samples 50, 51`, or `samples 48 to 63, 80 to 95`."""
    return f"sample{'s' if len(sample_ids) > 1 else ''} {in_runs(sample_ids, ' to ')}"
