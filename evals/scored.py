"""What can be scored for a kind of model."""

from typing import Any

from pretrain.config.sections import Config
from pretrain.errors import UserError
from pretrain.kind import Evaluation
from pretrain.kinds import RECORDS, every_kind, kind_named


def evaluation_of(config: Config) -> Evaluation[Any]:
    """How the kind of a config is scored. Raises UserError if it cannot be."""
    return evaluation_named(config.model.kind)


def evaluation_named(kind: str) -> Evaluation[Any]:
    """As `evaluation_of`, for a `model.kind`."""
    found = kind_named(kind).evaluation if kind in RECORDS else None
    if found is None:
        known = ", ".join(each.name for each in every_kind() if each.evaluation)
        raise UserError(f"pretrain eval scores no {kind}; it scores: {known}")
    return found


def kinds_with(task: str) -> tuple[str, ...]:
    """The kinds of models that a task of a suite is for."""
    return tuple(each.name for each in every_kind() if each.evaluation and task in each.evaluation.tasks)
