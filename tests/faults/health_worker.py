"""One rank of runs with faults of numbers; `train` is what `pretrain train` calls.

Argument: {"output": folder, "cases": [[name, {"config": path, "overrides": [...], "fault": {...}}]]} writes
{"code", "message"} of every case to a file of the rank. {"command": config, "fault": {...}} runs the command
line instead, exit code and all.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.distributed.world import DistContext, init_distributed


def outcome(world: DistContext, name: str, case: dict[str, Any]) -> dict[str, Any]:
    from health_faults import injected
    from megatron.core import parallel_state
    from torch.distributed import PrefixStore

    from pretrain.commands.train import train
    from pretrain.config.load import load_config
    from pretrain.errors import UserError

    loaded = load_config(case["config"], case["overrides"], world.size)
    own = replace(world, store=PrefixStore(name, world.store))
    try:
        with injected(case.get("fault"), world.rank):
            train(loaded, own)
    except UserError as error:
        return {"code": error.exit_code, "message": str(error)}
    finally:
        parallel_state.destroy_model_parallel()
    return {"code": 0, "message": ""}


def command(asked: dict[str, Any]) -> None:
    import os

    from health_faults import injected

    from pretrain.cli import main as cli

    sys.argv = ["pretrain", "train", asked["command"]]
    with injected(asked["fault"], int(os.environ["RANK"])):
        cli()


def main() -> None:
    asked = json.loads(sys.argv[1])
    if "command" in asked:
        command(asked)
        return
    with init_distributed() as world:
        found = {name: outcome(world, name, case) for name, case in asked["cases"]}
        Path(asked["output"], f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
