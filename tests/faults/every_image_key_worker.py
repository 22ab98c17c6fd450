"""What configs of GANs and classifiers do, in one process: trains a few steps of each and says what it saw.

Argument: {"output": path, "configs": {name: path}}. Configs are read without the rules between keys.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from pretrain.cnn.trainer import CnnTrainer
from pretrain.config.load import read_config
from pretrain.config.sections import CnnConfig, GanConfig
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import HealthError, UserError
from pretrain.gan.collapse import FIRST, CollapseHistory
from pretrain.gan.trainer import GanTrainer
from pretrain.health.spikes import SkippedRange, SpikeHistory
from pretrain.run.folder import RunFolder
from pretrain.training.schedule import learning_rate

STEPS = 3
FLAT = (1.0, 1.1, 1.2) * 4
"""Losses of a run's memory, on which a loss of 5.5 is a spike."""


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Of their bits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def said_by(act: Callable[[], object]) -> str:
    """The error of an act, or "done"."""
    try:
        act()
    except (UserError, HealthError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def of_a_gan(config: GanConfig, world: DistContext) -> dict[str, Any]:
    """What is built, what is drawn, what the first steps give, and a verdict."""
    trainer = GanTrainer(config, world)
    engines = {"G": trainer.generator.engine, "D": trainer.discriminator.engine}
    fresh = {name: network.whole() for name, network in zip("GD", trainer.networks, strict=True)}
    seen: dict[str, Any] = {
        "shapes": {name: {k: list(t.shape) for k, t in each.items()} for name, each in fresh.items()},
        "weights": digest(tensor for each in fresh.values() for tensor in each.values()),
        "zero": {
            name: [
                type(engine.zero).__name__,
                bool(getattr(engine.zero, "partition_gradients", False)),
                bool(getattr(engine.zero, "cpu_offload", getattr(engine.zero, "offload_optimizer", False))),
            ]
            for name, engine in engines.items()
        },
        "dtype": str(engines["G"].dtype),
        "micro_batches": [micro.samples.stop for micro in trainer.gan_step._micro_batches("generator", 0)],
        "images": digest([trainer.data.images(range(24)).images]),
    }
    results = [trainer.step(step).metrics for step in range(STEPS)]
    seen["losses"] = [[found["loss_d"], found["loss_g"]] for found in results]
    seen["counted"] = results[-1]["images"]
    seen["average"] = digest(trainer.average().values())
    trainer.validate(STEPS)
    folder = RunFolder(config.run.dir)
    seen["grid"] = Image.open(folder.artifacts / "samples" / f"step-{STEPS:08d}.png").size
    seen["final"] = (folder.path / "final").exists()
    trainer.memory = CollapseHistory(average=-1.0, steps=FIRST - 1)
    marks: dict[str, float] = {}
    ended = said_by(lambda: marks.update(trainer.step(STEPS).metrics))
    seen["collapse"] = [ended, marks.get("collapse")]
    marks.clear()
    with mock.patch("pretrain.gan.trainer.sample", return_value=torch.zeros(4, 1, 16, 16)):
        ended = said_by(lambda: marks.update(trainer.validate(STEPS) or {}))
    seen["alike"] = [ended, marks.get("collapse")]
    for engine in engines.values():
        engine.close()
    return seen


def of_a_classifier(config: CnnConfig, world: DistContext) -> dict[str, Any]:
    """The same of a classifier."""
    trainer = CnnTrainer(config, world)
    parameters = dict(trainer.classifier.named_parameters())
    batches = trainer.batches(0)
    seen: dict[str, Any] = {
        "shapes": {name: list(parameter.shape) for name, parameter in parameters.items()},
        "weights": digest(parameters.values()),
        "rates": [learning_rate(config, step) for step in range(20)],
        "micro_batches": [list(images.shape) for images, _ in batches],
        "images": digest(images for images, _ in batches),
        "losses": [trainer.step(step).loss for step in range(STEPS)],
        "validation": trainer.validate(STEPS),
    }
    return seen | of_its_health(trainer)


def of_its_health(trainer: CnnTrainer) -> dict[str, Any]:
    """The verdicts on a NaN, on a spike and on a rollback too many."""
    local = [torch.zeros(()) for _ in range(trainer.micro_batches)]
    with mock.patch.object(trainer, "_backward", return_value=(float("nan"), 1.0, local)):
        nonfinite = [said_by(lambda: trainer.step(STEPS)).split(":")[0] for _ in range(4)]
    verdicts = {}
    for count in (8, 12):
        trainer.memory = SpikeHistory(losses=FLAT[:count])
        with mock.patch.object(trainer, "_backward", return_value=(5.5, 1.0, local)):
            result = trainer.step(STEPS)
        verdicts[count] = [result.spike, result.updated]
    trainer.memory = SpikeHistory(skipped=(SkippedRange(0, 0, 4),), rollbacks=1)
    with mock.patch.object(CnnTrainer, "load", side_effect=UserError("would load")):
        too_many = said_by(lambda: trainer.roll_back(mock.Mock(), STEPS))
    return {"nonfinite": nonfinite, "spikes": verdicts, "rollback": too_many}


def observe(config: Any, world: DistContext) -> dict[str, Any]:
    """Everything that is compared, by name."""
    try:
        if isinstance(config, GanConfig):
            return of_a_gan(config, world)
        return of_a_classifier(config, world)
    except UserError as error:
        return {"refused": str(error)}


def main() -> None:
    asked = json.loads(sys.argv[1])
    seen: dict[str, Any] = {}
    same: dict[str, dict[str, Any]] = {}
    with init_distributed() as world:
        for name, path in asked["configs"].items():
            config = read_config(path).config
            what = config.model_dump_json(exclude={"run": {"dir"}})
            if what not in same:  # one of the two values is often the default
                same[what] = observe(config, world)
            seen[name] = same[what]
    Path(asked["output"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
