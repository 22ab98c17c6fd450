"""One rank that builds each asked-for layout in turn and writes what it holds in memory.

Argument: {"vocabulary": ids, "output": path, "layouts": {name: [config, overrides]}}.
"""

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pretrain.distributed.world import World, join_world


def held(world: World, vocabulary: int, path: str, overrides: list[str]) -> dict[str, int]:
    from megatron.core import parallel_state

    from pretrain.config.load import load_config
    from pretrain.config.require_kind import narrow
    from pretrain.config.sections import TextConfig
    from pretrain.kinds import kind_of
    from pretrain.megatron.optimizer import Optimizer
    from pretrain.megatron.parallel_dims import build_layout
    from pretrain.megatron.pipeline import Model
    from pretrain.plan.cost_counter import Ledger
    from pretrain.plan.states import held_states

    config = narrow(load_config(path, overrides, world.size).config, TextConfig, "this test")
    layout = build_layout(world, config.parallel)
    with Ledger() as ledger:
        model = Model(config, layout, vocabulary, kind_of(config).family(config, layout), training=True)
        optimizer = Optimizer(config, model)
        gc.collect()
        states = asdict(held_states(model, optimizer))
        everything = ledger.live
    parallel_state.destroy_model_parallel()
    return {**states, "everything": everything}


def main() -> None:
    argument = json.loads(sys.argv[1])
    with join_world() as world:
        found = {
            name: held(world, argument["vocabulary"], *layout) for name, layout in argument["layouts"].items()
        }
        Path(f"{argument['output']}-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
