"""One rank of runs in which nothing may be unpickled: {"runs": [[config, overrides, evaluates], ...]}."""

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pretrain.distributed.world import DistContext, init_distributed


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("something was unpickled")


def run(world: DistContext, name: str, config: str, overrides: list[str], evaluates: bool) -> None:
    """Train, with a checkpoint on the way; go on from that; score the end."""
    from megatron.core import parallel_state
    from torch.distributed import PrefixStore, barrier

    from evals.evaluate import evaluate
    from evals.request import EvalRequest
    from pretrain.commands.train import train
    from pretrain.config.load import load_config

    loaded = load_config(config, overrides, world.size)
    for turn in (1, 2):
        train(loaded, replace(world, store=PrefixStore(f"{name}-{turn}", world.store)))
        parallel_state.destroy_model_parallel()
        if turn == 1 and world.is_first:
            shutil.rmtree(Path(loaded.config.run.dir, "checkpoints", "step-00000004"))
        barrier()
    if evaluates:
        evaluate(loaded.config.run.dir, world, EvalRequest())
        parallel_state.destroy_model_parallel()


def main() -> None:
    asked = json.loads(sys.argv[1])
    import torch.distributed.distributed_c10d as c10d

    with init_distributed() as world:
        c10d._unpickler = refuse
        pickle.loads = pickle.load = refuse  # type: ignore[assignment]
        for number, (config, overrides, evaluates) in enumerate(asked["runs"]):
            run(world, f"run-{number}", config, overrides, evaluates)


if __name__ == "__main__":
    main()
