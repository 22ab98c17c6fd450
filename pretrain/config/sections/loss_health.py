"""Verdicts on a loss that should fall: what runs have that minimise one."""

from typing import Literal

from pydantic import Field

from pretrain.config.sections.common import HealthConfig
from pretrain.config.sections.section import Count


class LossHealthConfig(HealthConfig):
    """What to do about numbers that are not finite, losses that jump, replicas that drift apart and ranks
    that hang. A run that is stopped ends with exit code 4."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient on any rank: stop the run, or skip the update."""
    max_skips: Count | None = None
    """Skipped updates in a row before the run stops; null: 10. Only with on_nonfinite: skip."""
    on_spike: Literal["ignore", "report", "rollback"] = "report"
    """A loss far above its recent values: say so in log and journal, or go back to the last good checkpoint
    and jump over the samples seen since, those of the spike included. rollback needs `checkpoint.every`."""
    spike_window: int | None = Field(None, ge=8, le=10_000)
    """Losses that a loss is compared with, and steps before the first verdict; null: 64."""
    spike_threshold: float | None = Field(None, gt=0)
    """A spike is above the window's median by more than this many standard deviations, estimated from the
    median absolute deviation; null: 10."""
    max_rollbacks: Count | None = None
    """Rollbacks in the whole run before a spike stops it; null: 3. Only with on_spike: rollback."""
