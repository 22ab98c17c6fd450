"""What the kind records have in common that read token shards, or are distributed as transformers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.config import evaluation as keys
from pretrain.config.sections import TextConfig
from pretrain.kind import Evaluation, Export

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.data.dataset import TrainingDataset
    from pretrain.distributed.world import DistContext

PLAN_OPTIONS = frozenset({"--search", "--vocab-size", "--tokens"})
"""Options of `pretrain plan` for a transformer."""


def contents(data: "TrainingDataset") -> str:
    from pretrain.data.check import contents

    return contents(data)


def summary(
    config: TextConfig, processes: int | None, data: "TrainingDataset | None"
) -> Iterable[tuple[str, str]]:
    """See `Kind.summary`; for a transformer."""
    from pretrain.megatron.check import summary

    return summary(config, processes, data)


def evaluation(
    score: "Callable[[Path, DistContext, EvalRequest], Result]",
    tasks: tuple[str, ...],
    layout: tuple[str, ...] = keys.LAYOUT,
    options: frozenset[str] = frozenset(),
) -> Evaluation[Any]:
    """Evaluation on shards: the checkpoint has its own tokenizer, and limits apply to the run's data only."""
    return Evaluation(
        score=score,
        tasks=tasks,
        reads=keys.scored_shards,
        keys=(*layout, *keys.SHARDS),
        stands_for=("data.train", "data.validation"),
        forgets=("data.tokenizer",),
        forgets_with_data=("eval.max_windows",),
        options=options,
    )


def _export(checkpoint: str, folder: str, shard_bytes: int | None, tokenizer: bool) -> None:
    from pretrain.hf.exporter import export_command

    export_command(checkpoint, folder, shard_bytes, tokenizer=tokenizer)


EXPORT = Export(_export, frozenset({"--shard-size", "--no-tokenizer"}))
"""Export to a folder that transformers loads."""
