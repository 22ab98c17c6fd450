"""Ramp-up: the training data of a run whose sequences or batches grow.

Each stage of `schedule.sequence_length` has samples of its own length in an order of its own. All stages of
`schedule.batch_size` share one order. Either way a sample is a function of the step within the stage, so a
resumed run needs no more than its step number, as without ramp-up.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from pretrain.config.sections import TextConfig
from pretrain.config.stages import Stage, stages
from pretrain.data.dataset import CorpusSamples, TrainingDataset


@dataclass(frozen=True)
class RampupDataset:
    """The samples of every stage."""

    stages: tuple[Stage, ...]
    feeds: tuple[TrainingDataset, ...]

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples at every step. Without ramp-up it is that of the data."""
        if len(self.feeds) == 1:
            return self.feeds[0].fingerprint
        parts = [
            [stage.stop, dataset.fingerprint] for stage, dataset in zip(self.stages, self.feeds, strict=True)
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def stage(self, step: int) -> Stage:
        """The stage that step `step`, counted from 0, belongs to."""
        return self.stages[self._number(step)]

    def batches(self, step: int, jumped: int, rank: int, size: int) -> list[Any]:
        """All micro-batches of step `step` for data-parallel rank `rank` of `size`.

        Args:
            step: counted from 0.
            jumped: samples of the stage's order that were jumped over before it.
            rank: data-parallel rank.
            size: data-parallel size.
        """
        stage, dataset = self.stage(step), self.feeds[self._number(step)]
        position, count = step - stage.first, stage.micro_batches(size)
        return [dataset.batch(position, index, rank, size, jumped) for index in range(count)]

    def samples(self, step: int, jumped: int) -> range:
        """Indices of the samples of a step in the order of its stage; `jumped` as for `batches`."""
        stage = self.stage(step)
        first = stage.first_sample(step) + jumped
        return range(first, first + stage.batch.global_size)

    def _number(self, step: int) -> int:
        return next(n for n, stage in enumerate(self.stages) if stage.stop is None or step < stage.stop)


def rampup_dataset(config: TextConfig, last: TrainingDataset) -> RampupDataset:
    """The data of all stages of a run; `last` is the dataset of the last stage."""
    found = stages(config)
    if len(found) == 1:
        return RampupDataset(found, (last,))
    if not isinstance(last, CorpusSamples):
        raise TypeError(f"{type(last).__name__} has no stages")
    if config.corpus_schedule.batch_size:
        same_order = (
            replace(last, global_size=stage.batch.global_size, skipped=stage.skipped) for stage in found
        )
        return RampupDataset(found, tuple(same_order))
    datasets = [last.resized(_of_stage(config, stage, number)) for number, stage in enumerate(found[:-1])]
    return RampupDataset(found, (*datasets, last))


def _of_stage(config: TextConfig, stage: Stage, number: int) -> TextConfig:
    """The config as if the stage were the whole run, with a seed of its own, so that samples do not
    repeat."""
    message = f"{config.run.seed}/stage/{number}".encode()
    seed = int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "little")
    run = config.run.model_copy(update={"seed": seed})
    return config.model_copy(update={"run": run, "batch": stage.batch})
