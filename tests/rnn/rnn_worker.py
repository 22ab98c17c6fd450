"""One rank of the recurrent models' tests: trains runs, looks at trainers and scores, all in one process.

Argument: {"output": path, "runs": [[config, [overrides]], ...], "trainers": {name: config}, "scores": [run]}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from evals.evaluate import evaluate
from evals.request import EvalRequest
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.config.sections import RnnConfig
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.rnn.model import Rnn
from pretrain.rnn.trainer import RnnTrainer


def observe(path: str, world: DistContext) -> dict[str, Any]:
    """What is built and what the first two steps give."""
    config = load_config(path, (), world.size).config
    assert isinstance(config, RnnConfig)
    trainer = RnnTrainer(config, world)
    batch = trainer.batch(0, 0).batch.tokens
    lanes = trainer.validation
    dropped = record_dropout(trainer.model)
    losses = [trainer.step(0).loss, trainer.step(1).loss]
    in_training = len(dropped)
    validations = [trainer.validate(2) for _ in range(2)]
    in_validation = len(dropped) - in_training
    trainer.step(2)
    return {
        "shapes": {name: list(parameter.shape) for name, parameter in trainer.model.named_parameters()},
        "batch": list(batch.shape),
        "tokens": batch.sum(1).tolist(),
        "losses": losses,
        "sequences": trainer.data.samples_per_epoch,
        "scored": lanes.tokens if lanes else None,
        "validations": validations,
        "dropped": [in_training, in_validation, len(dropped) - in_training - in_validation],
        "masks": of_every_rank(dropped, world) if dropped else [],
    }


def record_dropout(model: Rnn) -> list[Tensor]:
    """What each call of the model's dropout takes away, from now on: 1 where it does, as a row."""
    honest, found = model._drop, list[Tensor]()

    def drop(hidden: Tensor) -> Tensor:
        kept = honest(hidden)
        if (kept == 0).any():
            found.append((kept == 0).flatten().to(torch.int64))
        return kept

    model._drop = drop  # type: ignore[method-assign]
    return found


def of_every_rank(rows: list[Tensor], world: DistContext) -> list[list[int]]:
    """All rows of all ranks."""
    mine = torch.stack(rows)
    everyone = [torch.zeros_like(mine) for _ in range(world.size)]
    dist.all_gather(everyone, mine)
    return torch.cat(everyone).tolist()


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        for path, overrides in asked["runs"]:
            train(load_config(path, overrides, world.size), world)
        seen = {name: observe(path, world) for name, path in asked["trainers"].items()}
        scores = {run: dict(evaluate(run, world, EvalRequest()).metrics) for run in asked["scores"]}
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps({"seen": seen, "scores": scores}))


if __name__ == "__main__":
    main()
