"""One rank that builds each asked-for layout in turn and writes what it holds in memory.

Argument: {"vocabulary": ids, "output": path, "layouts": {name: [config, overrides]}}.
"""

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pretrain.distributed.world import DistContext, init_distributed


def held(world: DistContext, vocabulary: int, path: str, overrides: list[str]) -> dict[str, int]:
    from megatron.core import parallel_state

    from pretrain.config.load import load_config, require_kind
    from pretrain.config.sections import TextConfig
    from pretrain.kinds import kind_of
    from pretrain.megatron.optimizer import Optimizer
    from pretrain.megatron.parallel_dims import build_parallel_dims
    from pretrain.megatron.pipeline import PipelineModel
    from pretrain.plan.cost_counter import CostCounter
    from pretrain.plan.states import held_states

    config = require_kind(load_config(path, overrides, world.size).config, TextConfig, "this test")
    layout = build_parallel_dims(world, config.parallel)
    with CostCounter() as ledger:
        model = PipelineModel(config, layout, vocabulary, kind_of(config).spec(config, layout), training=True)
        optimizer = Optimizer(config, model)
        gc.collect()
        states = asdict(held_states(model, optimizer))
        everything = ledger.live
    parallel_state.destroy_model_parallel()
    return {**states, "everything": everything}


def main() -> None:
    argument = json.loads(sys.argv[1])
    with init_distributed() as world:
        found = {
            name: held(world, argument["vocabulary"], *layout) for name, layout in argument["layouts"].items()
        }
        Path(f"{argument['output']}-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
