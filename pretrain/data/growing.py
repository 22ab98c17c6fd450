"""The training data of a run whose batches grow (`schedule.sequence_length`).

Each stage has samples of its own length in an order of its own, a function of the step within the stage. So
a resumed run needs no more than its step, as one whose batches do not grow.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pretrain.config.sections import TextConfig
from pretrain.config.stages import Stage, stages
from pretrain.data.feed import TrainingFeed

C = TypeVar("C", bound=TextConfig)


@dataclass(frozen=True)
class GrowingFeed:
    """The samples of every stage."""

    stages: tuple[Stage, ...]
    feeds: tuple[TrainingFeed, ...]

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples at every step; that of the data where nothing grows."""
        if len(self.feeds) == 1:
            return self.feeds[0].fingerprint
        parts = [[stage.stop, feed.fingerprint] for stage, feed in zip(self.stages, self.feeds, strict=True)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def batches(self, stage: int, step: int, jumped: int, rank: int, size: int) -> list[Any]:
        """All micro-batches of step `step` for data-parallel rank `rank` of `size`.

        Args:
            stage: number of the stage that the step belongs to.
            step: counted from 0.
            jumped: steps' worth of samples that were jumped over before it.
        """
        here, feed = self.stages[stage], self.feeds[stage]
        position = step - here.first + jumped
        return [feed.batch(position, index, rank, size) for index in range(here.micro_batches(size))]


def grow(config: C, last: TrainingFeed, open_feed: Callable[[C], TrainingFeed]) -> GrowingFeed:
    """The data of all stages.

    Args:
        config: of the run.
        last: the samples of the last stage.
        open_feed: gives those of an earlier one, from a config whose `batch` and `run.seed` are the stage's.
    """
    found = stages(config)
    feeds = [open_feed(_of_stage(config, stage, number)) for number, stage in enumerate(found[:-1])]
    return GrowingFeed(found, (*feeds, last))


def _of_stage(config: C, stage: Stage, number: int) -> C:
    """The config as if the stage were the whole run. Its seed is its own, lest samples be seen again."""
    message = f"{config.run.seed}/stage/{number}".encode()
    seed = int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "little")
    run = config.run.model_copy(update={"seed": seed})
    return config.model_copy(update={"run": run, "batch": stage.batch})
