"""What configs do, in one process: trains a few steps of each and tells what was seen.

Argument: {"output": path, "configs": {name: path}}, where a name begins with its key. Configs are read
without the rules between keys, so that keys of layouts that one process cannot have show in what is built.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from megatron.core import parallel_state

from pretrain.config.load import read_config
from pretrain.config.sections import GptConfig
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import HealthError, UserError
from pretrain.gpt.trainer import GptTrainer
from pretrain.health.spikes import SkippedRange, SpikeHistory
from pretrain.megatron.layers.transformer import transformer_config
from pretrain.megatron.trainer import MegatronTrainer
from pretrain.training.schedule import learning_rate

STEPS = 3
FLAT = (1.0, 1.1, 1.2) * 4
"""Losses of a run's memory, on which the first loss of a new model, about 5.5, is a spike."""


def said_by(act: Callable[[], object]) -> str:
    """The error of an act, or "done"."""
    try:
        act()
    except (UserError, HealthError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def observe(config: GptConfig, world: DistContext, health: bool) -> dict[str, Any]:
    """Everything that is compared, by name; `health`: also verdicts."""
    layout = transformer_config(config, torch.device("cpu"))
    seen: dict[str, Any] = {
        "megatron": {
            name: repr(value) for name, value in vars(layout).items() if "object at" not in repr(value)
        },
        "rates": [learning_rate(config, step) for step in range(20)],
    }
    parallel = config.parallel
    if parallel.tensor * parallel.pipeline * parallel.context > 1:
        return seen
    try:
        trainer = GptTrainer(config, world)
        seen |= of_a_trainer(trainer)
        if health:
            seen |= of_health(trainer)
    except UserError as error:
        seen["refused"] = str(error)
    parallel_state.destroy_model_parallel()
    return seen


def of_a_trainer(trainer: MegatronTrainer) -> dict[str, Any]:
    """What is built, what is drawn, and what the first steps give."""
    (chunk,) = trainer.model.chunks
    batches = trainer.batches(0)
    seen: dict[str, Any] = {
        "parameters": {name: [list(p.shape), str(p.dtype)] for name, p in chunk.named_parameters()},
        "weights": {
            name: float(p.detach().double().std()) for name, p in chunk.named_parameters() if p.numel() > 1
        },
        "means": {name: float(p.detach().double().mean()) for name, p in chunk.named_parameters()},
        "micro_batches": [list(batch.tokens.shape) for batch in batches],
        "tokens": [hashlib.sha256(batch.tokens.numpy().tobytes()).hexdigest() for batch in batches],
        "samples_per_epoch": trainer.data.samples_per_epoch,
        "windows": trainer.validation.samples if trainer.validation else None,
        "optimizer": type(trainer.optimizer._megatron).__name__,
        "overlap": trainer.model.wrapped[0].ddp_config.overlap_grad_reduce,
    }
    results = [trainer.step(step) for step in range(STEPS)]
    seen["losses"] = [result.loss for result in results]
    seen["validation"] = found["validation_loss"] if (found := trainer.validate(STEPS)) else None
    return seen


def of_health(trainer: MegatronTrainer) -> dict[str, Any]:
    """The verdicts on a NaN, on a spike and on a rollback too many."""
    honest = trainer.memory
    with (
        mock.patch.object(
            trainer.optimizer, "gradient_norm", return_value=torch.tensor(float("nan"), dtype=torch.float64)
        ),
        mock.patch("pretrain.megatron.trainer.find_nonfinite", return_value=""),
    ):
        nonfinite = [said_by(lambda: trainer.step(STEPS)).split(":")[0] for _ in range(4)]
    verdicts = {}
    for count in (8, 12):
        trainer.memory = SpikeHistory(losses=FLAT[:count])
        result = trainer.step(STEPS)
        verdicts[count] = [result.spike, result.updated]
    trainer.memory = SpikeHistory(skipped=(SkippedRange(0, 0, 4),), rollbacks=1)
    with mock.patch.object(MegatronTrainer, "load", side_effect=UserError("would load")):
        too_many = said_by(lambda: trainer.roll_back(mock.Mock(), STEPS))
    trainer.memory = honest
    return {"nonfinite": nonfinite, "spikes": verdicts, "rollback": too_many}


def main() -> None:
    asked = json.loads(sys.argv[1])
    seen: dict[str, Any] = {}
    same: dict[str, dict[str, Any]] = {}
    with init_distributed() as world:
        for name, path in asked["configs"].items():
            config, health = read_config(path).config, name.startswith("health.")
            what = config.model_dump_json(exclude={"run": {"dir"}}) + str(health)
            if what not in same:  # one of the two values is often the default
                same[what] = observe(config, world, health)
            seen[name] = same[what]
    Path(asked["output"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
