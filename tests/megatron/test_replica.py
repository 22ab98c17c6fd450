"""Gradients of a step do not depend on what the buffers held before it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_run import config_for
from text_shards import build_shards

from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.world import init_distributed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pretrain.gpt.trainer import GptTrainer

    folder = tmp_path_factory.mktemp("replica")
    build_shards(folder / "shards", [f"document {number} " * 40 for number in range(30)])
    config = config_for(folder / "run", None)
    sources = (config.data.train[0].model_copy(update={"path": str(folder / "shards")}),)
    data = config.data.model_copy(update={"train": sources})
    batch = config.batch.model_copy(update={"micro_size": 4})  # two micro-batches a step
    with init_distributed(RankInfo(0, 1, 0, "alone")) as world:
        yield GptTrainer(config.model_copy(update={"data": data, "batch": batch}), world)


def gradients(trainer: Any, before: float) -> list[torch.Tensor]:
    """Of the first step, in buffers that were filled before it."""
    for buffer in trainer.model.gradient_buffers():
        buffer.fill_(before)
    trainer.model.backward(trainer.batches(0))
    parameters = trainer.model.wrapped[0].params_with_grad
    return [parameter.main_grad.clone() for parameter in parameters]


def test_gradients_are_written_over_those_of_the_step_before(trainer: Any) -> None:
    clean, dirty = gradients(trainer, 0.0), gradients(trainer, float("nan"))
    assert sum(float(each.abs().sum()) for each in clean) > 0
    assert all(map(torch.equal, clean, dirty))


def test_a_hook_sees_gradients_that_are_written_into_the_sum_otherwise(trainer: Any) -> None:
    direct = gradients(trainer, float("nan"))
    parameters = trainer.model.wrapped[0].params_with_grad
    seen: list[torch.Tensor] = []
    handles = [parameter.register_hook(seen.append) for parameter in parameters]
    hooked = gradients(trainer, float("nan"))
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 * len(parameters)
    for one, other in zip(direct, hooked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_what_no_micro_batch_used_has_a_gradient_of_zero(trainer: Any) -> None:
    (replica,) = trainer.model.wrapped
    for buffer in trainer.model.gradient_buffers():
        buffer.fill_(7.0)
    replica.begin()
    replica.complete()
    assert all(not parameter.main_grad.any() for parameter in replica.params_with_grad)


def test_gradients_of_a_replay_begin_at_zero(trainer: Any) -> None:
    gradients(trainer, float("nan"))
    trainer.model.forget_gradients()
    assert all(not buffer.any() for buffer in trainer.model.gradient_buffers())
