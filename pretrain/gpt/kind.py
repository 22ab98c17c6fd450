"""The records of GPTs, pretrained and fine-tuned on conversations: what each command asks of these kinds."""

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config.evaluation import LAYOUT
from pretrain.config.generate_request import OF_TEXT, GenerateRequest
from pretrain.config.rules import CORPUS, FINETUNE, chat
from pretrain.config.sections import ChatConfig, DecoderConfig, DecoderModelConfig, GptConfig
from pretrain.data.kind import EXPORT, PLAN_OPTIONS, contents, evaluation, summary
from pretrain.kind import Evaluation, Generation, Inheritance, Kind, Planning

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.hardware import Cluster
    from pretrain.config.load import LoadedConfig
    from pretrain.data.dataset import TrainingDataset
    from pretrain.distributed.world import DistContext
    from pretrain.gpt.chat.data import ChatTraining
    from pretrain.gpt.spec import GptSpec
    from pretrain.megatron.parallel_dims import ParallelDims
    from pretrain.plan.request import PlanRequest
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer

PUBLISHED_VOCABULARY = 50_257
"""Ids of GPT-2's tokenizer."""


def _trainer(
    config: GptConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None"
) -> "Trainer":
    from pretrain.gpt.trainer import GptTrainer

    return GptTrainer(config, world, gate, own)


def _chat_trainer(
    config: ChatConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None"
) -> "Trainer":
    from pretrain.gpt.chat.trainer import ChatTrainer

    return ChatTrainer(config, world, gate, own)


def _open(loaded: "LoadedConfig", config: GptConfig, processes: int | None) -> "TrainingDataset":
    from pretrain.gpt.data import TrainingData, ValidationData
    from pretrain.megatron.corpus_check import open_corpus

    def both(config: GptConfig) -> TrainingData:
        training, _ = TrainingData.from_config(config), ValidationData.from_config(config)
        return training

    return open_corpus(loaded, config, both)


def _open_chat(loaded: "LoadedConfig", config: ChatConfig, processes: int | None) -> "ChatTraining":
    from pretrain.gpt.chat.open import open_chat
    from pretrain.megatron.corpus_check import say
    from pretrain.megatron.init_from import find_init_from, require_init_from

    return open_chat(config, require_init_from(find_init_from(config, say))).training


def _family(config: DecoderConfig, layout: "ParallelDims") -> "GptSpec":
    from pretrain.gpt.spec import GptSpec

    return GptSpec(config, layout)


def _plan(config: GptConfig, request: "PlanRequest", cluster: "Cluster") -> None:
    from pretrain.plan.text_command import show_text_plan

    show_text_plan(config, request, cluster, _family, PUBLISHED_VOCABULARY)


def _score(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.gpt import evaluate_gpt

    return evaluate_gpt(path, world, request)


def _score_chat(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.chat import evaluate_chat

    return evaluate_chat(path, world, request)


def _chat_reads(config: ChatConfig, named: bool) -> list[str]:
    return [config.data.validation] if config.data.validation and not named else []


def _generate(request: GenerateRequest) -> None:
    prompts, sampling = request.texts(), request.sampling()
    if request.chat:
        from pretrain.gpt.chat.talk import chat_command as command
    else:
        from pretrain.gpt.generate import generate_command as command
    most = request.tokens
    overrides = request.overrides or ()
    command(request.checkpoint, prompts, most, sampling, processes=request.processes, overrides=overrides)


_GENERATION = Generation(_generate, OF_TEXT | {"chat", "processes", "overrides"})

GPT = Kind(
    name="gpt",
    title="a gpt",
    config=GptConfig,
    rules=CORPUS,
    inherits=Inheritance(("gpt",), DecoderModelConfig),
    trainer=_trainer,
    open_data=_open,
    summary=summary,
    contents=contents,
    family=_family,
    planning=Planning(_plan, PLAN_OPTIONS),
    evaluation=evaluation(_score, ("perplexity", "harness"), options=frozenset({"stride"})),
    generation=_GENERATION,
    export=EXPORT,
)
CHAT = Kind(
    name="gpt-chat",
    title="a gpt-chat",
    config=ChatConfig,
    rules=(*FINETUNE, *chat.RULES),
    inherits=Inheritance(("gpt", "gpt-chat"), DecoderModelConfig),
    trainer=_chat_trainer,
    open_data=_open_chat,
    summary=summary,
    contents=contents,
    family=_family,
    evaluation=Evaluation(
        score=_score_chat,
        tasks=("answers", "harness"),
        reads=_chat_reads,
        keys=(
            *LAYOUT,
            *(f"data.{key}" for key in ("validation", "prompt", "response", "messages", "too_long")),
        ),
        one_file=True,
    ),
    generation=_GENERATION,
    export=EXPORT,
)
