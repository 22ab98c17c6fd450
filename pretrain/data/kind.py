"""What the kind records have in common that read token shards, or are distributed as transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.kind import LAYOUT_KEYS, SHARD_KEYS, Evaluation, Export, Late, scored_shards

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.distributed.world import DistContext

PLAN_OPTIONS = frozenset({"--search", "--vocab-size", "--tokens"})
"""Options of `pretrain plan` for a transformer."""
contents = Late("pretrain.data.check:contents")
summary = Late("pretrain.megatron.check:summary")
"""See `Kind.summary`; for a transformer."""
EXPORT = Export(Late("pretrain.hf.exporter:export_command"), frozenset({"shard_bytes", "tokenizer"}))
"""Export to a folder that transformers loads."""


def evaluation(
    score: "Callable[[Path, DistContext, EvalRequest], Result]",
    tasks: tuple[str, ...],
    layout: tuple[str, ...] = LAYOUT_KEYS,
    options: frozenset[str] = frozenset(),
) -> Evaluation[Any]:
    """Evaluation on shards: the checkpoint has its own tokenizer, and limits apply to the run's data only."""
    return Evaluation(
        score=score,
        tasks=tasks,
        reads=scored_shards,
        keys=(*layout, *SHARD_KEYS),
        stands_for=("data.train", "data.validation"),
        forgets=("data.tokenizer",),
        forgets_with_data=("eval.max_windows",),
        options=options,
    )
