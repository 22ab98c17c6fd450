"""The records of BERTs, pretrained and fine-tuned: what each command asks of these kinds."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config.evaluation import LAYOUT
from pretrain.config.rules import CORPUS, FINETUNE, finetune
from pretrain.config.rules import bert as bert_data
from pretrain.config.sections import (
    BertConfig,
    ClassifierConfig,
    EncoderModelConfig,
    FinetuneConfig,
    TaggerConfig,
)
from pretrain.data.kind import EXPORT, PLAN_OPTIONS, contents, evaluation, summary
from pretrain.kind import Evaluation, Inheritance, Kind, Planning

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.bert.finetune.data.data import LabelledTraining
    from pretrain.bert.spec import BertSpec
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.hardware import Cluster
    from pretrain.config.load import LoadedConfig
    from pretrain.data.dataset import TrainingDataset
    from pretrain.distributed.world import DistContext
    from pretrain.megatron.parallel_dims import ParallelDims
    from pretrain.plan.request import PlanRequest
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer

PUBLISHED_VOCABULARY = 30_522
"""Ids of the original's tokenizer."""


def _trainer(
    config: BertConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None"
) -> "Trainer":
    from pretrain.bert.trainer import BertTrainer

    return BertTrainer(config, world, gate, own)


def _open(loaded: "LoadedConfig", config: BertConfig, processes: int | None) -> "TrainingDataset":
    from pretrain.bert.data.text import BertTrainingData, BertValidationData
    from pretrain.megatron.corpus_check import open_corpus

    def both(config: BertConfig) -> BertTrainingData:
        training, _ = BertTrainingData.from_config(config), BertValidationData.from_config(config)
        return training

    return open_corpus(loaded, config, both)


def _family(config: BertConfig, layout: "ParallelDims") -> "BertSpec":
    from pretrain.bert.spec import BertSpec

    return BertSpec(config, layout)


def _plan(config: BertConfig, request: "PlanRequest", cluster: "Cluster") -> None:
    from pretrain.plan.text_command import show_text_plan

    show_text_plan(config, request, cluster, _family, PUBLISHED_VOCABULARY)


def _score(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.bert import evaluate_bert

    return evaluate_bert(path, world, request)


def _finetune_trainer(
    config: FinetuneConfig, world: "DistContext", gate: "StepSync", own: "Checkpoint | None"
) -> "Trainer":
    from pretrain.bert.finetune.trainer import FinetuneTrainer

    return FinetuneTrainer(config, world, gate, own)


def _open_examples(
    loaded: "LoadedConfig", config: FinetuneConfig, processes: int | None
) -> "LabelledTraining":
    from pretrain.bert.finetune.check import check_examples

    return check_examples(config)


def _finetune_summary(
    config: FinetuneConfig, processes: int | None, data: "LabelledTraining | None"
) -> Iterable[tuple[str, str]]:
    from pretrain.bert.finetune.check import summary

    return summary(config, processes, data)


def _examples(data: "LabelledTraining") -> str:
    from pretrain.bert.finetune.check import contents

    return contents(data)


def _score_finetuned(path: Path, world: "DistContext", request: "EvalRequest") -> "Result":
    from evals.families.finetune import evaluate_finetuned

    return evaluate_finetuned(path, world, request)


def _labelled_files(config: FinetuneConfig, named: bool) -> list[str]:
    """Files whose contents decide the scores. The training file is one: it says which classes exist."""
    scored = None if named else config.data.validation
    return [config.data.train, *([scored] if scored else [])]


_FROM_BERT = Inheritance(("bert",), EncoderModelConfig)

BERT = Kind(
    name="bert",
    title="a bert",
    config=BertConfig,
    rules=(*CORPUS, *bert_data.RULES),
    inherits=_FROM_BERT,
    trainer=_trainer,
    open_data=_open,
    summary=summary,
    contents=contents,
    family=_family,
    planning=Planning(_plan, PLAN_OPTIONS),
    evaluation=evaluation(_score, ("masked",)),
    export=EXPORT,
)
CLASSIFIER = Kind(
    name="bert-classifier",
    title="a bert-classifier",
    config=ClassifierConfig,
    rules=(*FINETUNE, *finetune.ENCODER),
    inherits=_FROM_BERT,
    trainer=_finetune_trainer,
    open_data=_open_examples,
    summary=_finetune_summary,
    contents=_examples,
    evaluation=Evaluation(
        score=_score_finetuned,
        tasks=("accuracy",),
        reads=_labelled_files,
        keys=(*LAYOUT, "data.train", "data.validation"),
        one_file=True,
    ),
    export=EXPORT,
)
TAGGER = replace(CLASSIFIER, name="bert-tagger", title="a bert-tagger", config=TaggerConfig)
