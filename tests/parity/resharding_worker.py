"""One rank of the resharding runs: saves a checkpoint from each asked-for layout, or goes on from each.

Argument: {"config": path, "folder": path, "output": path, "layouts": {name: overrides}, "load": [names]}.
Without "load", every layout trains SAVED steps and saves; with it, every layout takes up each named
checkpoint in turn and trains to the end.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pretrain.distributed.world import DistContext, init_distributed

SAVED, ALL = 3, 5


def save(world: DistContext, asked: dict[str, Any], name: str, trainer: Any) -> None:
    from pretrain.checkpoint import Saver, StoreCoordinator

    for step in range(SAVED):
        trainer.step(step)
    coordinator = StoreCoordinator(world.store, name)
    run = Path(asked["folder"]) / name
    saver = Saver(run, trainer.config.checkpoint, world.rank, world.size, coordinator)
    report = saver.save(SAVED, list(trainer.pieces()), trainer.state(SAVED))
    assert report is not None, "a synchronous save reports at once"
    assert report.ok, report.reason


def go_on(asked: dict[str, Any], name: str, trainer: Any) -> dict[str, Any]:
    from pretrain.checkpoint import newest_good, open_checkpoint

    path, _ = newest_good(Path(asked["folder"]) / name)
    assert path is not None
    start = trainer.load(open_checkpoint(path))
    results = [trainer.step(step) for step in range(start, ALL)]
    return {
        "losses": [result.loss for result in results],
        "gradient_norms": [result.metrics["grad_norm"] for result in results],
        "updates": trainer.optimizer.updates,
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    from megatron.core import parallel_state

    from pretrain.config.load import load_config
    from pretrain.kinds import kind_of
    from pretrain.training.step_sync import StepSync

    with init_distributed() as world:
        curves: dict[str, Any] = {}
        for name, overrides in asked["layouts"].items():
            config = load_config(asked["config"], overrides, world.size).config
            trainer: Any = kind_of(config).trainer(config, world, StepSync(world), None)
            if "load" in asked:
                curves[name] = {other: go_on(asked, other, trainer) for other in asked["load"]}
            else:
                save(world, asked, name, trainer)
            parallel_state.destroy_model_parallel()
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
