"""A run that does no better than guessing without looking, and what that is most often due to.

Accuracies are compared over a window of steps, since a single batch is too small for a verdict. It is a hint
in the log and changes nothing, so that what is summed here needs no place in checkpoints.
"""

from pretrain.config.sections import TextConfig
from pretrain.training.metric_sums import MetricSums

SHORTEST, LONGEST = 100, 1000
"""Steps of a window, a tenth of the run in between."""


class Plateau:
    """Sums the totals of steps, and judges them at the end of each window."""

    def __init__(self, config: TextConfig) -> None:
        self._window = min(LONGEST, max(SHORTEST, config.run.steps // 10))
        self._warmup = config.schedule.warmup_steps
        self._first = 0
        self._sum: MetricSums | None = None

    def after(self, step: int, totals: MetricSums) -> list[str]:
        """Take in step `step`, counted from 0.

        Returns:
            A warning for each prediction that was at its baseline in the window that ends here.
        """
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
