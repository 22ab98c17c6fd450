"""Numbers that are not finite: refused in a checkpoint (`require_finite`), and in a step that has failed
traced to the rank and the samples that produced the first one (`find_nonfinite`).

A healthy step pays for none of this. The weights are as before the step, and samples and dropout are
functions of it, so the step is computed a second time with every tensor watched and gradients kept on their
ranks. Each kind of model defines how (`FailedStep`); what is found is reported in the same words for all
kinds.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Protocol

import torch
from torch import Tensor

from pretrain.checkpoint import ShardedTensor
from pretrain.distributed.gather import gather_texts
from pretrain.distributed.ranks import some_ranks
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError
from pretrain.health.evidence import Evidence, describe
from pretrain.health.probe import Probe, Watched


class FailedStep(Protocol):
    """A step whose numbers are not finite, which can be computed again. All ranks call its methods
    together."""

    @property
    def world(self) -> DistContext:
        """The world of all its ranks."""

    @property
    def samples(self) -> Sequence[Sequence[int]]:
        """Samples of each of this rank's micro-batches; empty where they do not come from data."""

    def watched(self) -> Sequence[Watched]:
        """The networks whose tensors are checked in the replay."""

    def look(self) -> Evidence:
        """Evidence from the state that the step has left; called first."""

    def replay(self, probe: Probe) -> None:
        """Compute losses and gradients again, which stay on this rank; the probe gets the micro-batches."""

    def repeats(self) -> bool:
        """Whether the step fails again as a whole; called if the replay has shown nothing."""


def find_nonfinite(step: FailedStep) -> str:
    """Compute a failed step again and report where its first number that is not finite comes from.

    All ranks call this together and get the same text. Gradients are unusable afterwards.
    """
    found = step.look()
    probe = Probe(step.watched())
    with probe.hooks():
        step.replay(probe)
    seen = [(asdict(each), list(step.samples[each.micro_batch])) for each in probe.sightings]
    texts = gather_texts(step.world, json.dumps(asdict(found) | {"sightings": seen}))
    everyone = [Evidence.from_json(json.loads(text)) for text in texts]
    shown = any(each.weights or each.sightings for each in everyone)
    return describe(everyone, repeats=shown or step.repeats())


def require_finite(world: DistContext, step: int, pieces: Iterable[ShardedTensor]) -> None:
    """Refuse to save numbers that are not finite; all ranks call this together.

    Args:
        step: optimizer steps done, for the message.
        pieces: the shards of this rank; it checks those that it owns.

    Raises:
        HealthError: on every rank, if a shard of any rank is not finite; names the first one and the ranks.
    """
    bad = (shard.name for shard in pieces if shard.owner and not _is_finite(shard.tensor))
    found = gather_texts(world, next(bad, ""))
    if where := [rank for rank, name in enumerate(found) if name]:
        raise HealthError(
            f"after step {step}: {found[where[0]]} on {some_ranks(where)} holds numbers that are not finite; "
            "no checkpoint was saved of this, resuming goes on from the last good one"
        )


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    """From minimum and maximum, which takes no extra memory: with a NaN, both are NaN."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
