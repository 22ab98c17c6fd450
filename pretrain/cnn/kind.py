"""The record of image classifiers: what each command asks of this kind."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import evaluation
from pretrain.config.rules import DESCENT, cnn, remote, sources
from pretrain.config.rules import replicated as replicas
from pretrain.config.sections import CnnConfig
from pretrain.kind import Evaluation, Kind

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.load import LoadedConfig
    from pretrain.data.images import ImageData
    from pretrain.distributed.world import DistContext
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer


def _trainer(
    config: CnnConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None" = None
) -> "Trainer":
    from pretrain.cnn.trainer import CnnTrainer

    return CnnTrainer(config, world, gate)


def _open(loaded: "LoadedConfig", config: CnnConfig, processes: int | None) -> "ImageData":
    from pretrain.cnn.check import check_images

    return check_images(loaded, config)


def _summary(config: CnnConfig, processes: int | None, data: "ImageData | None") -> Iterable[tuple[str, str]]:
    from pretrain.cnn.check import summary

    return summary(config, processes, data)


def _contents(data: "ImageData") -> str:
    from pretrain.cnn.check import contents

    return contents(data)


def _score(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.cnn import evaluate_classifier

    return evaluate_classifier(path, world, request)


CNN = Kind(
    name="cnn",
    title="a classifier",
    config=CnnConfig,
    rules=(*replicas.rules("images"), *cnn.RULES, *sources.RULES, *remote.RULES, *DESCENT),
    trainer=_trainer,
    open_data=_open,
    summary=_summary,
    contents=_contents,
    evaluation=Evaluation(
        score=_score,
        tasks=("accuracy",),
        reads=evaluation.scored_shards,
        keys=evaluation.CACHE,
        is_extractor=True,
    ),
)
