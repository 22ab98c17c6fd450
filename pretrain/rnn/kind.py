"""The record of recurrent language models: what each command asks of this kind."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config.generate_request import OF_TEXT, GenerateRequest
from pretrain.config.rules import DESCENT, corpus, remote, sources
from pretrain.config.rules import replicated as replicas
from pretrain.config.sections import RnnConfig
from pretrain.data.kind import contents, evaluation
from pretrain.kind import Generation, Kind

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.load import LoadedConfig
    from pretrain.data.dataset import TrainingDataset
    from pretrain.distributed.world import DistContext
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer


def _trainer(
    config: RnnConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None" = None
) -> "Trainer":
    from pretrain.rnn.trainer import RnnTrainer

    return RnnTrainer(config, world, gate)


def _open(loaded: "LoadedConfig", config: RnnConfig, processes: int | None) -> "TrainingDataset":
    from pretrain.data.check import open_tokens
    from pretrain.rnn.data import LaneData, StreamData

    def both(config: RnnConfig) -> StreamData:
        training, _ = StreamData.from_config(config), LaneData.from_config(config)
        return training

    return open_tokens(loaded, config, both)


def _summary(
    config: RnnConfig, processes: int | None, data: "TrainingDataset | None"
) -> Iterable[tuple[str, str]]:
    from pretrain.rnn.check import summary

    return summary(config, processes, data)


def _score(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.rnn import evaluate_rnn

    return evaluate_rnn(path, world, request)


def _generate(request: GenerateRequest) -> None:
    prompts, sampling = request.texts(), request.sampling()
    from pretrain.rnn.generate import generate_command

    generate_command(request.checkpoint, prompts, request.tokens, sampling)


RNN = Kind(
    name="rnn",
    title="a recurrent model",
    config=RnnConfig,
    rules=(*replicas.rules("streams"), *corpus.RULES, *sources.RULES, *remote.RULES, *DESCENT),
    trainer=_trainer,
    open_data=_open,
    summary=_summary,
    contents=contents,
    evaluation=evaluation(_score, ("perplexity",), layout=("batch.micro_size",)),
    generation=Generation(_generate, OF_TEXT),
)
