"""One rank of the suites' tests: trains runs and scores their checkpoints, all in one process.

Argument: {"train": [config], "orders": {name: {checkpoint, which, suite, overrides}}, "output": path,
"tracked": whether scores go to MLflow}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from megatron.core import parallel_state

from evals.batch import evaluate_several
from evals.command import Command
from pretrain.commands.train import train
from pretrain.config.load import load_config
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError


def answer(asked: dict[str, Any], world: DistContext) -> Any:
    try:
        scored = evaluate_several(Command(**asked), world)
    except UserError as error:
        return {"refused": str(error)}
    finally:
        parallel_state.destroy_model_parallel()
    return [[each.name, each.result.step, dict(each.result.metrics), each.result.spec] for each in scored]


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        for path in asked["train"]:
            loaded = load_config(path, ("tracking.enabled=false",), world.size)  # no uploader beside each
            train(loaded, world)
            resolved = Path(loaded.config.run.dir) / "config.resolved.yaml"
            if asked["tracked"]:
                resolved.write_text(resolved.read_text().replace("enabled: false", "enabled: true"))
            parallel_state.destroy_model_parallel()
        answers = {name: answer(order, world) for name, order in asked["orders"].items()}
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
