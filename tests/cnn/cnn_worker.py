"""One rank of the classifier's tests: trains runs and looks at trainers, all in one process.

Argument: {"output": path, "runs": [[config, [overrides]], ...], "trainers": {name: config}}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pretrain.cnn.trainer import CnnTrainer
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.config.sections import CnnConfig
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError


def observe(path: str, world: DistContext) -> dict[str, Any]:
    """What is built and what the first step gives."""
    config = load_config(path, (), world.size).config
    assert isinstance(config, CnnConfig)
    try:
        trainer = CnnTrainer(config, world)
    except UserError as error:
        return {"refused": str(error)}
    shapes = {name: list(parameter.shape) for name, parameter in trainer.classifier.named_parameters()}
    batch = trainer.batch(0, 0)[0]
    result = trainer.step(0)
    return {
        "shapes": shapes,
        "batch": list(batch.shape),
        "pixels": int(batch.sum()),
        "loss": result.loss,
        "rate": result.metrics["lr"],
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        for path, overrides in asked["runs"]:
            train(load_config(path, overrides, world.size), world)
        seen = {name: observe(path, world) for name, path in asked["trainers"].items()}
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
