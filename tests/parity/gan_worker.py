"""One rank of the GAN's parity runs: trains each asked-for config in turn, or the plain reference of each.

Argument: {"output": folder, "steps": N, "runs": {name: {"changes": {...}, "mutation": name or null, "load":
folder or null, "save": folder or null, "start": N, "stop": N}}}. Rank 0 writes `output/NAME.json` with the
losses and `output/NAME.safetensors` with the weights; slashes in names become dashes.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gan_images import RandomImages
from safetensors.torch import save_file

from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import HealthError

sys.path.insert(0, str(Path(__file__).parents[1]))  # what pytest adds for its own process

STEPS = 6


def weights(generator: Any, discriminator: Any) -> dict[str, torch.Tensor]:
    """Both networks' tensors under one name each."""
    both = {f"generator.{k}": v for k, v in generator.items()}
    return both | {f"discriminator.{k}": v for k, v in discriminator.items()}


def write(output: Path, name: str, losses: list[Any], tensors: dict[str, torch.Tensor]) -> None:
    path = output / name.replace("/", "-")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, f"{path}.safetensors")
    Path(f"{path}.json").write_text(json.dumps(losses))


def train(world: DistContext, output: Path, name: str, run: dict[str, Any]) -> None:
    from gan_configs import gan_config
    from gan_mutations import mutated

    from pretrain.checkpoint import Saver, StoreCoordinator, open_checkpoint
    from pretrain.config.sections import CheckpointConfig
    from pretrain.gan import trainer as gan_trainer

    config = gan_config(**run.get("changes", {}))
    images = RandomImages(config.model.image_size)
    with (
        mutated(run.get("mutation")),
        mock.patch.object(gan_trainer, "open_images", lambda config, size: images),
    ):
        trainer = gan_trainer.GanTrainer(config, world)
        if run.get("load"):
            trainer.load(open_checkpoint(run["load"]))
        losses: list[Any] = []
        try:
            for step in range(run.get("start", 0), run.get("stop", STEPS)):
                metrics = trainer.step(step).metrics
                losses.append([metrics["loss_d"], metrics["loss_g"]])
            trainer.check_replicas(run.get("stop", STEPS))
        except HealthError as error:
            losses.append(str(error))
        if run.get("save"):
            store = StoreCoordinator(world.store)
            saver = Saver(run["save"], CheckpointConfig(), world.rank, world.size, store)
            saver.save(run["stop"], list(trainer.pieces()), trainer.state(run["stop"]))
            saver.close()
        tensors = weights(trainer.final(), trainer.discriminator.whole())
        tensors |= {f"ema.{k}": v for k, v in trainer.average().items()}
        trainer.generator.engine.close()
        trainer.discriminator.engine.close()
    if world.is_first:
        write(output, name, losses, tensors)


def reference(output: Path, name: str, run: dict[str, Any]) -> None:
    from gan_configs import gan_config
    from plain_gan import PlainGan

    plain = PlainGan(gan_config(**run.get("changes", {})))
    losses = [plain.step(step) for step in range(STEPS)]
    tensors = weights(plain.generator.state_dict(), plain.discriminator.state_dict())
    write(output, name, losses, tensors | {f"ema.{k}": v for k, v in plain.average.items()})


def main() -> None:
    asked = json.loads(sys.argv[1])
    output = Path(asked["output"])
    with init_distributed() as world:
        for name, run in asked["runs"].items():
            if run.get("plain"):
                reference(output, name, run)
            else:
                train(world, output, name, run)


if __name__ == "__main__":
    main()
