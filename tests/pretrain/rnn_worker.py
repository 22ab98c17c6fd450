"""One rank of the recurrent models' tests: trains runs, looks at trainers and scores, all in one process.

Argument: {"output": path, "runs": [[config, [overrides]], ...], "trainers": {name: config}, "scores": [run]}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from evals.evaluate import evaluate
from pretrain.config.load import load_config
from pretrain.config.sections import RnnConfig
from pretrain.launch import World, join_world
from pretrain.rnn_trainer import RnnTrainer
from pretrain.train import train


def observe(path: str, world: World) -> dict[str, Any]:
    """What is built and what the first two steps give."""
    config = load_config(path, (), world.size).config
    assert isinstance(config, RnnConfig)
    trainer = RnnTrainer(config, world)
    batch = trainer.batch(0, 0).batch.tokens
    lanes = trainer.validation
    return {
        "shapes": {name: list(parameter.shape) for name, parameter in trainer.model.named_parameters()},
        "batch": list(batch.shape),
        "tokens": batch.sum(1).tolist(),
        "losses": [trainer.step(0).loss, trainer.step(1).loss],
        "sequences": trainer.data.samples_per_epoch,
        "scored": lanes.tokens if lanes else None,
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    with join_world() as world:
        for path, overrides in asked["runs"]:
            train(load_config(path, overrides, world.size), world)
        seen = {name: observe(path, world) for name, path in asked["trainers"].items()}
        scores = {run: dict(evaluate(run, world).metrics) for run in asked["scores"]}
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps({"seen": seen, "scores": scores}))


if __name__ == "__main__":
    main()
