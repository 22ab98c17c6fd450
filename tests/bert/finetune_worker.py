"""One rank of the fine-tuning tests: `make` writes a BERT's run, `train` fine-tunes it and writes its curve.

Argument: {"make": folder, "config": path, "overrides": [...]}, or
{"output": path, "steps": N, "config": path, "runs": {name: overrides}}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pretrain.distributed.world import DistContext, init_distributed


def make(world: DistContext, folder: Path, config_path: str, overrides: list[str]) -> None:
    from pretrain.checkpoint import Saver, StoreCoordinator
    from pretrain.config.load import read_config
    from pretrain.config.resolved import config_to_yaml
    from pretrain.config.sections import TextConfig
    from pretrain.kinds import kind_of
    from pretrain.megatron.optimizer import weight_shard
    from pretrain.megatron.parallel_dims import build_parallel_dims
    from pretrain.megatron.pipeline import PipelineModel
    from pretrain.megatron.sharding import parameter_shards

    config = read_config(config_path, overrides).config
    assert isinstance(config, TextConfig)
    resolved = config_to_yaml(config)
    (folder / "config.resolved.yaml").write_text(resolved)
    vocab_size = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["vocab_size"]
    layout = build_parallel_dims(world, config.parallel)
    family = kind_of(config).spec
    assert family is not None
    model = PipelineModel(config, layout, vocab_size, family(config, layout), training=True)
    saver = Saver(folder, config.checkpoint, 0, 1, StoreCoordinator(world.store))
    saver.save(
        7,
        [weight_shard(part, layout) for part in parameter_shards(model.chunks, layout)],
        {"step": 7, "vocab_size": vocab_size},
        {"config.resolved.yaml": resolved.encode(), "tokenizer": folder / "tokenizer"},
    )
    saver.close()


def train(world: DistContext, config_path: str, overrides: list[str], steps: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    from pretrain.bert.finetune.trainer import FinetuneTrainer
    from pretrain.config.load import load_config
    from pretrain.config.sections import FinetuneConfig

    config = load_config(config_path, overrides, world.size).config
    assert isinstance(config, FinetuneConfig)
    trainer = FinetuneTrainer(config, world)
    Path(config.run.dir).mkdir(parents=True, exist_ok=True)
    results = [trainer.step(step) for step in range(steps)]
    validation = trainer.validate(steps)
    parallel_state.destroy_model_parallel()
    return {
        "losses": [result.loss for result in results],
        "norms": [result.metrics["grad_norm"] for result in results],
        "validation": validation,
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    with init_distributed() as world:
        if "make" in asked:
            make(world, Path(asked["make"]), asked["config"], asked["overrides"])
            return
        curves = {
            name: train(world, asked["config"], overrides, asked["steps"])
            for name, overrides in asked["runs"].items()
        }
        if world.is_first:
            Path(asked["output"]).write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
