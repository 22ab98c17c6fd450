"""What makes a rank hang, slow or fail, put in from outside; which rank, by its RANK."""

import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pretrain.megatron.trainer
import pretrain.tracking.journal
from pretrain.gpt.data import TrainingData
from pretrain.megatron.trainer import MegatronTrainer
from pretrain.training.session import Session

CULPRIT = 1
STEP = 5
"""Counted from 0."""
STEP_SECONDS = 0.1
"""Of a run that is to be killed, so that it is not over before the test of a busy machine comes to that."""


def _is_culprit() -> bool:
    return int(os.environ["RANK"]) == min(CULPRIT, int(os.environ["WORLD_SIZE"]) - 1)


def _before_batches(act: Callable[[int], None]) -> Any:
    honest = TrainingData.batch

    def batch(data: TrainingData, step: int, *more: int) -> Any:
        if _is_culprit():
            act(step)
        return honest(data, step, *more)

    return mock.patch.object(TrainingData, "batch", batch)


def data_never_come() -> Any:
    """The loader of one rank sleeps for ever."""
    return _before_batches(lambda step: time.sleep(3600 * (step == STEP)))


def first_data_late() -> Any:
    """The loader of one rank takes its time at the first step."""
    return _before_batches(lambda step: time.sleep(0.4 * (step == 0)))


def slow_data() -> Any:
    """The loader of one rank is slow at every step."""
    return _before_batches(lambda step: time.sleep(0.1))


def paced() -> Any:
    """Every rank takes its time over each step; of any trainer."""
    honest = Session.log_step

    def log_step(run: Session, step: int, metrics: Any) -> None:
        honest(run, step, metrics)
        time.sleep(STEP_SECONDS)

    return mock.patch.object(Session, "log_step", log_step)


def data_fail() -> Any:
    """One rank meets a defect."""

    def fail(step: int) -> None:
        if step == STEP:
            raise ValueError("a defect in the loader")

    return _before_batches(fail)


def endless_start() -> Any:
    """No rank ever has its model."""
    honest = MegatronTrainer.__init__

    def build(trainer: MegatronTrainer, *arguments: Any) -> None:
        time.sleep(3600)
        honest(trainer, *arguments)

    return mock.patch.object(MegatronTrainer, "__init__", build)


def slow_validation() -> Any:
    """Validation goes on for a minute."""
    honest = pretrain.megatron.trainer.score

    def score(model: Any, data: Any, advance: Any) -> Any:
        for _ in range(600):
            time.sleep(0.1)
            advance(0)
        return honest(model, data, advance)

    return mock.patch.object(pretrain.megatron.trainer, "score", score)


def impatient_journal() -> Any:
    """The journal's lines wait in memory no longer."""
    return mock.patch.object(pretrain.tracking.journal, "MAX_PENDING_BYTES", 0)


FAULTS: dict[str, Callable[[], Any]] = {
    function.__name__: function
    for function in (
        data_never_come,
        first_data_late,
        slow_data,
        paced,
        data_fail,
        endless_start,
        slow_validation,
        impatient_journal,
    )
}
