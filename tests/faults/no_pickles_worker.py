"""One rank of runs in which nothing may be unpickled: {"runs": [[config, overrides, evaluates], ...]}."""

import json
import pickle
import sys
from dataclasses import replace
from typing import Any, NoReturn

from pretrain.launch import World, join_world


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("something was unpickled")


def run(world: World, name: str, config: str, overrides: list[str], evaluates: bool) -> None:
    """Train, with a checkpoint on the way; go on from it; score it."""
    from megatron.core import parallel_state
    from torch.distributed import PrefixStore

    from evals.evaluate import evaluate
    from pretrain.config.load import load_config
    from pretrain.train import train

    for steps in (2, 4):
        loaded = load_config(config, [*overrides, f"run.steps={steps}"], world.size)
        train(loaded, replace(world, store=PrefixStore(f"{name}-{steps}", world.store)))
        parallel_state.destroy_model_parallel()
    if evaluates:
        evaluate(loaded.config.run.dir, world)
        parallel_state.destroy_model_parallel()


def main() -> None:
    asked = json.loads(sys.argv[1])
    import torch.distributed.distributed_c10d as c10d

    with join_world() as world:
        c10d._unpickler = refuse
        pickle.loads = pickle.load = refuse  # type: ignore[assignment]
        for number, (config, overrides, evaluates) in enumerate(asked["runs"]):
            run(world, f"run-{number}", config, overrides, evaluates)


if __name__ == "__main__":
    main()
