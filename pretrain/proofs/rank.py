"""One rank of `pretrain parity`: trains each layout of its world in turn. Run as a module, with a plan file.

Layouts of one world size share their processes, because starting those takes the longest.
"""

import json
import logging
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron.core import parallel_state
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from data_tools.progress import Progress
from pretrain.checkpoint import Saver, StoreCoordinator
from pretrain.config.load import load_config, require_kind
from pretrain.config.sections import CheckpointConfig, CorpusConfig
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError, named
from pretrain.kinds import kind_of
from pretrain.run.exit import print_error, run_and_exit
from pretrain.training.step_sync import StepSync


@dataclass(frozen=True)
class Plan:
    """What the ranks of one world do."""

    configs: dict[str, str]
    """Name of a layout -> config file."""
    steps: int
    curves: str
    """File that rank 0 writes at the end."""
    keep_tensors: bool
    """Also save checkpoints before and after every step, in each config's `run.dir`."""

    def write(self, path: Path) -> None:
        with named(path):
            path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> "Plan":
        return cls(**json.loads(Path(path).read_text()))


@dataclass(frozen=True)
class Curve:
    """Results of one layout, a number a step."""

    losses: list[float]
    gradient_norms: list[float]


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves of a world, by layout."""
    return {name: Curve(**curve) for name, curve in json.loads(path.read_text()).items()}


def _train(world: DistContext, name: str, config_path: str, plan: Plan) -> Curve:
    config = require_kind(load_config(config_path, (), world.size).config, CorpusConfig, "this proof")
    trainer = kind_of(config).trainer(config, world, StepSync(world), None)
    saver = Saver(
        config.run.dir,
        CheckpointConfig(keep_last=plan.steps + 1),
        world.rank,
        world.size,
        StoreCoordinator(PrefixStore(name, world.store)),
    )

    def keep(step: int) -> None:
        if plan.keep_tensors:
            saver.save(step, list(trainer.pieces()), trainer.state(step), last=True)

    losses, norms = [], []
    keep(0)
    with Progress(f"training, {name}", total=plan.steps, unit="step") as progress:
        for step in range(plan.steps):
            result = trainer.step(step)
            losses.append(result.loss)
            norms.append(result.metrics["grad_norm"])
            keep(step + 1)
            progress.advance(1 if world.is_first else 0)
    parallel_state.destroy_model_parallel()
    return Curve(losses, norms)


def main(path: str) -> None:
    """Train what the plan lists."""
    plan = Plan.read(path)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    with init_distributed() as world:
        curves = {name: asdict(_train(world, name, config, plan)) for name, config in plan.configs.items()}
        if world.is_first:
            with named(plan.curves):
                Path(plan.curves).write_text(json.dumps(curves))


def _main() -> None:
    try:
        main(sys.argv[1])
    except UserError as error:
        print_error(f"pretrain: error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run_and_exit(_main)
