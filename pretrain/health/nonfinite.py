"""Which rank made a number that is not finite, of which samples; asked once a step has failed.

A healthy step pays for none of this. The weights are as before the step, and samples and dropout are
functions of it, so the step is computed a second time with every tensor watched and gradients kept on their
ranks. Each kind of model says how (`FailedStep`); what is found is told in the same words.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from pretrain.distributed.gather import gather_texts
from pretrain.distributed.world import DistContext
from pretrain.health.evidence import Evidence, describe
from pretrain.health.probe import Probe, Watched


class FailedStep(Protocol):
    """A step whose numbers are not finite, which can be computed again. All ranks ask it the same."""

    @property
    def world(self) -> DistContext:
        """All its ranks."""

    @property
    def samples(self) -> Sequence[Sequence[int]]:
        """Of each of this rank's micro-batches; none where they do not come from data."""

    def watched(self) -> Sequence[Watched]:
        """What is looked at in the replay."""

    def look(self) -> Evidence:
        """What the step has left; asked first."""

    def replay(self, probe: Probe) -> None:
        """Compute losses and gradients again, which stay on this rank; the probe is told of micro-batches."""

    def repeats(self) -> bool:
        """Whether the step fails again, as a whole; asked where the replay has shown nothing."""


def find_nonfinite(step: FailedStep) -> str:
    """Compute a failed step again and say where its first number that is not finite comes from.

    All ranks call this together and get the same text. Gradients are not usable afterwards.
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
