"""Faults of numbers, put into a trainer from outside at given steps of given ranks.

A fault is a dictionary: `kind`, `steps` (counted from 0), `rank` (absent: all ranks) and what its kind takes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch

import pretrain.megatron.pipeline as model
from pretrain.gpt.data import TrainingData
from pretrain.megatron.optimizer import Optimizer
from pretrain.megatron.sharding import parameter_shards
from pretrain.megatron.trainer import MegatronTrainer
from pretrain.training.data_parallel import DataParallelTrainer
from pretrain.training.trainer import StepResult

NAN = float("nan")


@dataclass
class Switch:
    """On while a faulty step is computed."""

    on: bool = False
    micro_batch: int = 0


def part_of(trainer: MegatronTrainer, name: str) -> Any:
    """This rank's part of a weight, None where it has none."""
    parts = parameter_shards(trainer.model.chunks, trainer.layout)
    return next((part for part in parts if part.key == name), None)


@contextmanager
def injected(fault: dict[str, Any] | None, rank: int) -> Iterator[None]:
    """Train with a fault."""
    with ExitStack() as stack:
        if fault and fault["kind"] in DATA:
            stack.enter_context(DATA[fault["kind"]](fault))
        elif fault and fault["kind"] == "replica":
            stack.enter_context(bad_numbers(fault))
        elif fault and fault.get("rank", rank) == rank:
            switch = Switch()
            stack.enter_context(stepping(fault, switch))
            if fault["kind"] == "loss":
                stack.enter_context(bad_loss(switch, fault["micro_batch"]))
            if fault["kind"] == "norm":
                stack.enter_context(bad_norm(switch))
        yield


def stepping(fault: dict[str, Any], switch: Switch) -> Any:
    """Switch the fault on for its steps, and hook what it needs into the trainer at its first."""
    honest = MegatronTrainer.step
    hooked: set[int] = set()

    def step(trainer: MegatronTrainer, index: int) -> Any:
        if id(trainer) not in hooked and fault["kind"] in HOOKS:
            hooked.add(id(trainer))
            HOOKS[fault["kind"]](trainer, fault, switch)
        switch.on, switch.micro_batch = index in fault["steps"], 0
        if switch.on and fault["kind"] == "weight":
            part = part_of(trainer, fault["tensor"])
            part.parameter.data.view(-1)[part.start + 5] = NAN
        result = honest(trainer, index)
        if switch.on and fault["kind"] == "weights":
            blow_up(trainer, fault)
            fault["steps"] = [] if fault.get("once") else fault["steps"]
        if switch.on and fault["kind"] == "bit":
            part = part_of(trainer, fault["tensor"])
            part.parameter.data.view(-1).view(torch.int32)[part.start + 5] ^= 1 << 20
        return result

    return mock.patch.object(MegatronTrainer, "step", step)


def blow_up(trainer: MegatronTrainer, fault: dict[str, Any]) -> None:
    """Every weight, or the one named, is multiplied by `factor` after the step's update."""
    parts = parameter_shards(trainer.model.chunks, trainer.layout)
    chosen = {
        id(part.parameter): part.parameter for part in parts if fault.get("tensor", part.key) == part.key
    }
    with torch.no_grad():
        for parameter in chosen.values():
            parameter.mul_(float(fault["factor"]))


@contextmanager
def bad_numbers(fault: dict[str, Any]) -> Iterator[None]:
    """An RNN's or a CNN's loss is multiplied by `factor` at its steps; with `once`, the first time only."""
    honest_step, honest_backward = DataParallelTrainer.step, DataParallelTrainer._backward
    switch, steps = Switch(), list(fault["steps"])

    def step(trainer: Any, index: int) -> StepResult:
        switch.on = index in steps
        if switch.on and fault.get("once"):
            steps.remove(index)
        return honest_step(trainer, index)

    def backward(trainer: Any, batches: Any) -> Any:
        loss, *others = honest_backward(trainer, batches)
        return loss * (float(fault["factor"]) if switch.on else 1.0), *others

    with (
        mock.patch.object(DataParallelTrainer, "step", step),
        mock.patch.object(DataParallelTrainer, "_backward", backward),
    ):
        yield


def bad_loss(switch: Switch, micro_batch: int) -> Any:
    """The loss of one micro-batch becomes NaN."""
    honest = model.forward_step

    def forward_step(family: Any, divisors: Any, batches: Any, chunk: Any) -> Any:
        output, loss = honest(family, divisors, batches, chunk)
        spoil = switch.on and switch.micro_batch % 2 == micro_batch
        switch.micro_batch += 1

        def spoilt(losses: torch.Tensor) -> Any:
            return loss(losses * NAN if spoil else losses)

        return output, spoilt

    return mock.patch.object(model, "forward_step", forward_step)


def bad_norm(switch: Switch) -> Any:
    """A rank alone finds the norm not finite, once."""
    honest = Optimizer.gradient_norm

    def gradient_norm(optimizer: Optimizer) -> torch.Tensor:
        norm = honest(optimizer)
        switch.on, was_on = False, switch.on
        return torch.full_like(norm, NAN) if was_on else norm

    return mock.patch.object(Optimizer, "gradient_norm", gradient_norm)


def hook_gradient(trainer: MegatronTrainer, fault: dict[str, Any], switch: Switch) -> None:
    """The gradient of a parameter becomes `value`; with `once`, only the first time."""

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if not switch.on:
            return gradient
        switch.on = not fault.get("once")
        return torch.full_like(gradient, float(fault.get("value", "nan")))

    part = part_of(trainer, fault["tensor"])
    if part is not None:
        part.parameter.register_hook(spoil)


def hook_output(trainer: MegatronTrainer, fault: dict[str, Any], switch: Switch) -> None:
    """One number in the output of a module becomes infinite."""

    def spoil(_module: Any, _inputs: Any, output: Any) -> Any:
        if not switch.on:
            return output
        return (torch.where(torch.arange(output[0].shape[-1]) == 2, torch.inf, output[0]), *output[1:])

    for chunk in trainer.model.chunks:
        for name, module in chunk.named_modules():
            if name == fault["tensor"]:
                module.register_forward_hook(spoil)


def bad_labels(fault: dict[str, Any]) -> Any:
    """Samples in [first, stop), of sequences of `length` if it is given, are to be followed by a token that
    never occurs."""
    honest = TrainingData.samples

    def samples(data: TrainingData, sample_ids: Any) -> Any:
        batch = honest(data, sample_ids)
        if fault.get("length", data.sequence_length) != data.sequence_length:
            return batch
        labels = batch.labels.clone()
        for row, sample_id in enumerate(sample_ids):
            if fault["first"] <= sample_id < fault["stop"]:
                labels[row] = 3
        return replace(batch, labels=labels)

    return mock.patch.object(TrainingData, "samples", samples)


def without_samples(fault: dict[str, Any]) -> Any:
    """Data that never had the samples [first, stop) of each range, nor another of its `length` if that is
    given."""
    honest = TrainingData.samples

    def samples(data: TrainingData, sample_ids: Any) -> Any:
        for each in fault["ranges"]:
            if each.get("length", data.sequence_length) == data.sequence_length:
                gap = each["stop"] - each["first"]
                sample_ids = [number + gap if number >= each["first"] else number for number in sample_ids]
        return honest(data, sample_ids)

    return mock.patch.object(TrainingData, "samples", samples)


HOOKS: dict[str, Callable[[MegatronTrainer, dict[str, Any], Switch], None]] = {
    "gradient": hook_gradient,
    "output": hook_output,
}
DATA: dict[str, Callable[[dict[str, Any]], Any]] = {"labels": bad_labels, "without": without_samples}
