"""MLflow's name of a metric: the journal's name prefixed with its group, `loss/validation_loss`.

MLflow's pages make a section of what precedes a name's last `/`, and sort sections and charts alphabetically.
So the groups below are named in the order in which people look: whether the model learns comes before where
the time goes. Names in `metrics.jsonl` and `evaluations.jsonl` have no groups.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from pretrain.health.phase_timer import Cause

OTHER = "other"
"""Group of a metric of the journal that is in none of the groups."""
SCORES = "scores"
"""Group of all results of `pretrain eval`; named tasks of a suite have sections below it."""


def _both(*names: str) -> Iterator[str]:
    """Metrics that a family measures on each batch and on the validation data."""
    return (f"{source}_{name}" for name in names for source in ("training", "validation"))


GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "accuracy": (*_both("accuracy", "baseline_accuracy"), "validation_f1"),
        # these exist only once something has happened
        "health": ("collapse", "rollbacks", "skipped", "spike"),
        "loss": ("loss", "loss_d", "loss_g", "penalty", "validation_loss"),
        "mlm": tuple(_both("mlm_loss", "mlm_accuracy", "mlm_baseline_accuracy", "mlm_chosen_accuracy")),
        "nsp": tuple(_both("nsp_loss", "nsp_accuracy", "nsp_baseline_accuracy")),
        "optimizer": ("grad_norm", "grad_norm_d", "grad_norm_g", "lr"),
        "samples": ("answer_fake", "answer_real", "real_diversity", "sample_diversity"),
        "throughput": (
            "images",
            "images_per_second",
            "mfu",
            "straggler_ratio",
            "tokens",
            "tokens_per_second",
        ),
        "time": tuple(f"{prefix}{cause.value}_share" for prefix in ("", "profiled_") for cause in Cause),
    }
)
"""Each group with its metrics of the journal, for all kinds of models."""

GROUP_OF: Mapping[str, str] = MappingProxyType(
    {name: group for group, names in GROUPS.items() for name in names}
)
"""The group of each metric of the journal."""

Naming = Callable[[str], str]
"""From a name in a file of the run to the name in MLflow."""


def of_journal(name: str) -> str:
    """MLflow's name of a metric of `metrics.jsonl`."""
    return f"{GROUP_OF.get(name, OTHER)}/{name}"


def of_evaluation(name: str) -> str:
    """MLflow's name of a metric of `evaluations.jsonl`."""
    return f"{SCORES}/{name}"


def as_it_is(name: str) -> str:
    """For `system.jsonl`, and for all files if the MLflow run began before there were groups."""
    return name
