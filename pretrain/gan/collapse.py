"""Detects a GAN that has stopped learning: D has won for good, or G always makes nearly the same image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import FiniteFloat

from data_tools.typed import Natural, typed
from pretrain.config.gan_losses import LOSSES
from pretrain.config.sections import GanLossConfig

WON = 0.01
"""D has won if the average of its loss is below this share of its loss at a tie."""
DECAY = 0.99
"""Decay of the moving average of D's loss."""
FIRST = 100
"""Steps before the first verdict."""
ALIKE = 0.2
"""Samples are alike if they differ by less than this share of the difference between real images."""


@dataclass(frozen=True)
class CollapseHistory:
    """The moving average of D's loss. It is part of a checkpoint, so that a resumed run judges the same."""

    average: FiniteFloat = 0.0
    steps: Natural = 0

    def after(self, loss_d: float) -> "CollapseHistory":
        average = loss_d if self.steps == 0 else DECAY * self.average + (1 - DECAY) * loss_d
        return CollapseHistory(average, self.steps + 1)

    def has_ended(self, loss: GanLossConfig) -> bool:
        """Whether D has won for so long that G no longer learns anything."""
        tie = LOSSES[loss.kind].tie
        return tie is not None and self.steps >= FIRST and self.average < WON * tie

    def to_json(self) -> dict[str, Any]:
        return {"average": self.average, "steps": self.steps}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "CollapseHistory":
        """From a checkpoint. Raises ValueError for anything else."""
        return typed(cls, tree)


def are_alike(samples: float, real: float) -> bool:
    """Whether G has collapsed, judged by the diversity of its samples and of as many real images."""
    return samples < ALIKE * real
