"""The record of GANs: what each command asks of this kind."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import evaluation
from pretrain.config.generate_request import SEED, GenerateRequest
from pretrain.config.rules import gan, remote, service, sources
from pretrain.config.sections import GanConfig
from pretrain.kind import Evaluation, Export, Generation, Kind, Planning

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.hardware import Cluster
    from pretrain.config.load import LoadedConfig
    from pretrain.data.images import ImageData
    from pretrain.distributed.world import DistContext
    from pretrain.plan.request import PlanRequest
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer


def _trainer(
    config: GanConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None" = None
) -> "Trainer":
    from pretrain.gan.trainer import GanTrainer

    return GanTrainer(config, world, gate)


def _open(loaded: "LoadedConfig", config: GanConfig, processes: int | None) -> "ImageData":
    from pretrain.gan.check import check_images

    return check_images(loaded, config, processes)


def _summary(config: GanConfig, processes: int | None, data: "ImageData | None") -> Iterable[tuple[str, str]]:
    from pretrain.gan.check import summary

    return summary(config, processes, data)


def _contents(data: "ImageData") -> str:
    from pretrain.gan.check import contents

    return contents(data)


def _plan(config: GanConfig, request: "PlanRequest", cluster: "Cluster") -> None:
    from pretrain.plan.gan_command import show_gan_plan

    show_gan_plan(config, request, cluster)


def _score(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.gan import evaluate_gan

    return evaluate_gan(path, world, request)


def _generate(request: GenerateRequest) -> None:
    from pretrain.gan.generate import generate_images

    seed = SEED if request.seed is None else request.seed
    generate_images(
        request.checkpoint,
        request.output,
        request.count or 64,
        request.label,
        seed,
        average=not request.raw,
    )


def _export(checkpoint: str, folder: str, shard_bytes: int | None, tokenizer: bool) -> None:
    from pretrain.gan.export import export_generator

    export_generator(checkpoint, folder)


GAN = Kind(
    name="gan",
    title="a GAN",
    config=GanConfig,
    rules=(*gan.RULES, *sources.TRAINING, *remote.RULES, *service.RULES),
    trainer=_trainer,
    open_data=_open,
    summary=_summary,
    contents=_contents,
    planning=Planning(_plan),
    evaluation=Evaluation(
        score=_score,
        tasks=("images",),
        reads=evaluation.scored_shards,
        keys=("data.train", *evaluation.CACHE),
        options=frozenset(
            {"extractor", "inception_weights", "inception_sha256", "resize", "samples", "seed"}
        ),
        scores_training=True,
    ),
    generation=Generation(_generate, frozenset({"output", "count", "label", "raw", "seed"})),
    export=Export(_export),
)
