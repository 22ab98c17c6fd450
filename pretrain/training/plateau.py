"""Detects a run that does no better than guessing without looking, and says what the usual cause is.

Accuracies are compared over a window of steps, because a single batch is too small for a verdict. The result
is a hint in the log and changes nothing, so the sums need no place in checkpoints.
"""

from pretrain.config.sections import TextConfig
from pretrain.training.metric_sums import MetricSums

SHORTEST, LONGEST = 100, 1000
"""Steps of the shortest and of the longest window; between them it is a tenth of the run."""


class Plateau:
    """Adds up the metric sums of steps and judges them at the end of each window."""

    def __init__(self, config: TextConfig) -> None:
        self._window = min(LONGEST, max(SHORTEST, config.run.steps // 10))
        self._warmup = config.schedule.warmup_steps
        self._first = 0
        self._sum: MetricSums | None = None

    def after(self, step: int, totals: MetricSums) -> list[str]:
        """Add the sums of step `step`, counted from 0.

        Returns:
            A warning for each prediction that was at its baseline in the window that ends here.
        """
        # During warm-up every model is at its baseline.
        if step < self._warmup:
            return []
        if self._sum is None or step < self._first:  # a new window, or a rollback
            self._first, self._sum = step, totals
        else:
            self._sum += totals
        steps = step + 1 - self._first
        if steps < self._window:
            return []
        judged, self._sum = self._sum, None
        return [
            f"{guess.metric} was {guess.right / guess.count:.2%} in the last {steps} steps, and always the "
            f"same answer gets {guess.by_baseline / guess.count:.2%}: {guess.cause}"
            for guess in judged.guesses
            if guess.at_baseline
        ]
