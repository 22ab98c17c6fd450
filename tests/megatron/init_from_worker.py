"""Ranks of the tests of `model.init_from`.

Argument: {"train": [[config, overrides], ...]} trains each as `pretrain train` does; {"save": {folder:
[config, overrides], ...}} saves what each is before its first step.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pretrain.distributed.world import DistContext, init_distributed


def save(world: DistContext, folder: Path, config_path: str, overrides: list[str]) -> None:
    from torch.distributed import PrefixStore

    from pretrain.checkpoint import Saver, StoreCoordinator, resolve
    from pretrain.config.load import load_config
    from pretrain.config.resolved import config_to_yaml
    from pretrain.config.sections import TextConfig
    from pretrain.kinds import kind_of
    from pretrain.training.step_sync import StepSync

    config = load_config(config_path, overrides, world.size).config
    assert isinstance(config, TextConfig)
    # A run that still goes on may save while ranks look: each would find another newest checkpoint.
    with patch(
        "pretrain.megatron.init_from.resolve", resolve if world.is_first else AssertionError("rank 0 chooses")
    ):
        trainer: Any = kind_of(config).trainer(config, world, StepSync(world), None)
    coordinator = StoreCoordinator(PrefixStore(folder.name, world.store))
    saver = Saver(folder, config.checkpoint, world.rank, world.size, coordinator)
    resolved = config_to_yaml(config)
    files = {"config.resolved.yaml": resolved.encode(), **trainer.files()}
    saver.save(0, list(trainer.pieces()), trainer.state(0), files)
    saver.close()
    if world.is_first:
        (folder / "config.resolved.yaml").write_text(resolved)


def main() -> None:
    from megatron.core import parallel_state

    from pretrain.commands.train import train
    from pretrain.config.load import load_config

    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        for path, overrides in asked.get("train", []):
            train(load_config(path, overrides, world.size), world)
            parallel_state.destroy_model_parallel()
        for folder, (path, overrides) in asked.get("save", {}).items():
            save(world, Path(folder), path, overrides)
            parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    main()
