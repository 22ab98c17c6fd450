"""One step of a GAN run: some updates of D, one of G, the moving average, and verdicts.

The next step depends on the weights, both Adam states, the buffers, the average and the step number, and on
nothing else: images, noise and augmentation are functions of these. So a resumed run is identical to an
uninterrupted one. `pretrain.commands.train` drives the whole run.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.atomic import in_place_of
from data_tools.counts import counted
from data_tools.typed import natural
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.checkpoint.tensors import write_tensors
from pretrain.config.sections import GanConfig
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError, may_be_missing
from pretrain.gan.collapse import CollapseHistory, are_alike
from pretrain.gan.data import open_images
from pretrain.gan.engine import Engine
from pretrain.gan.networks.build import build_discriminator, build_generator, channels_last, shape_of
from pretrain.gan.samples import diversity, grid, pixels, sample, save_png
from pretrain.gan.settings import micro_batches, micro_size
from pretrain.gan.statistics import measure_statistics
from pretrain.gan.step import GanStep
from pretrain.gan.streams import fixed_latents
from pretrain.gan.zero_shards import Ema, NetworkTensors, write_back
from pretrain.run.folder import RunFolder
from pretrain.training.descent import load_all
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import StepResult, Trainer

log = logging.getLogger(__name__)


class GanTrainer(Trainer[GanConfig]):
    """Both networks, their optimizers and the images of one run on this rank."""

    UNIT = "images"

    def __init__(
        self,
        config: GanConfig,
        world: DistContext,
        step_sync: StepSync | None = None,
        own: Checkpoint | None = None,
    ) -> None:
        super().__init__(config, world, step_sync)
        self.data = open_images(config, world.size)
        self.shape = shape_of(config.model, config.loss, self.data.channels, self.data.num_classes)
        seed = config.run.seed
        self.generator, self.discriminator = (
            NetworkTensors(Engine(name, channels_last(build(self.shape, seed)), config, world), world)
            for name, build in (("generator", build_generator), ("discriminator", build_discriminator))
        )
        self.ema = Ema(self.generator.parts, config.model.ema_decay)
        self.gan_step = GanStep(config, world, self.data, self.generator, self.discriminator)
        self.memory = CollapseHistory()

    @property
    def networks(self) -> tuple[NetworkTensors, NetworkTensors]:
        return self.generator, self.discriminator

    @property
    def images_per_step(self) -> int:
        """Real images that D sees in a step."""
        return self.config.loss.discriminator_steps * self.config.batch.global_size

    def step(self, step: int) -> StepResult:
        """Step `step`, counted from 0.

        Raises:
            HealthError: a loss or gradient is not finite, or D has won and the config says to stop.
        """
        rounds = self.config.loss.discriminator_steps
        updates = range(step * rounds, (step + 1) * rounds)
        self.gan_step.images = self.step_sync.fetch(lambda: self.gan_step.read(updates))
        found: dict[str, float] = {}
        for update in updates:
            found |= self.gan_step.discriminator_update(update)
        found |= self.gan_step.generator_update(step, updates[-1])
        self.ema.update(step)
        loss = found["loss_d"] + found["loss_g"]
        metrics = {"loss": loss, **found, **self._norms(), "lr": self.config.optimizer.lr}
        metrics["images"] = (step + 1) * self.images_per_step
        self._judge_progress(step, found["loss_d"], metrics)
        return StepResult(loss, metrics, self.images_per_step, updated=True, spike=False)

    def _norms(self) -> dict[str, float]:
        return {
            "grad_norm_d": self.discriminator.engine.gradient_norm,
            "grad_norm_g": self.generator.engine.gradient_norm,
        }

    def _judge_progress(self, step: int, loss_d: float, metrics: dict[str, float]) -> None:
        had_ended = self.memory.has_ended(self.config.loss)
        self.memory = self.memory.after(loss_d)
        if self.config.health.on_collapse == "ignore" or not self.memory.has_ended(self.config.loss):
            return
        metrics["collapse"] = 1
        # Reported once, when it happens, and not in every later step.
        if not had_ended:
            self._report(
                f"step {step + 1}: D has won: its loss averages {self.memory.average:.2g}, G learns nothing "
                "from it; a larger loss.r1, loss.augment or a smaller optimizer.discriminator_lr may help"
            )

    def _report(self, message: str) -> None:
        if self.config.health.on_collapse == "stop":
            raise HealthError(message)
        log.warning("%s", message)

    def validate(self, step: int) -> dict[str, float] | None:
        """Write a grid of samples and, after the last step, G and its average; judge whether samples differ.

        Raises HealthError if they do not and the config says to stop.
        """
        folder = RunFolder(self.config.run.dir)
        average, last = self.average(), self.final()
        different = broadcast_from_rank0(self.world, lambda: self._draw(step, average, last, folder))
        real = broadcast_from_rank0(self.world, self._real_diversity)
        metrics = {"sample_diversity": different, "real_diversity": real}
        metrics["images"] = step * self.images_per_step
        if self.config.health.on_collapse != "ignore" and are_alike(different, real):
            metrics["collapse"] = 1
            self._report(
                f"step {step}: samples are nearly alike: they differ by {different:.3g} a pixel, real images "
                f"by {real:.3g}"
            )
        return metrics

    def _draw(
        self, step: int, average: dict[str, Tensor], last: dict[str, Tensor], folder: RunFolder
    ) -> float:
        """On rank 0: write the grid and the files of the end, and return the diversity of the samples."""
        generator = build_generator(self.shape, self.config.run.seed)
        generator.load_state_dict(average)
        measure_statistics(generator, self.config.model.latent_size, self.shape.classes, self.config.run.seed)
        latents = fixed_latents(self.config.run.seed, self.config.eval.samples, self.config.model.latent_size)
        labels = torch.arange(len(latents)) % self.shape.classes if self.shape.classes else None
        images = sample(generator, latents, labels)
        at_end = step >= self.config.run.steps
        with may_be_missing(unless=at_end):
            save_png(folder.artifacts / "samples" / f"step-{step:08d}.png", grid(pixels(images)))
            kept = (("generator_ema", generator.state_dict()), ("generator", last)) if at_end else ()
            for name, tensors in kept:
                save_network(folder.path / "final" / f"{name}.safetensors", tensors)
        return diversity(images, labels)

    def _real_diversity(self) -> float:
        count = min(self.config.eval.samples, self.data.samples_per_epoch)
        real, labels = self.data.images(range(count))
        return diversity(real.float() / 127.5 - 1, labels if self.shape.classes else None)

    def average(self) -> dict[str, Tensor]:
        """The moving average of G, whole, with the buffers of the current G; all ranks call this together."""
        return self.generator.whole(self.ema.tensors)

    def final(self) -> dict[str, Tensor]:
        """G in fp32, whole, with its buffers; all ranks call this together."""
        return self.generator.whole()

    def check_replicas(self, step: int) -> None:
        computed = [tensor for network in self.networks for tensor in network.computed()]
        self._replica_check(step, [*self.pieces(), *computed])

    def pieces(self) -> Iterator[ShardedTensor]:
        """Weights and Adam states of both networks, buffers, and the average."""
        for network in self.networks:
            yield from network.pieces()
        yield from self.generator.pieces_of("ema.generator", self.ema.tensors, "weights")

    def state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "images": step * self.images_per_step,
            "generator_updates": self.generator.engine.updates,
            "discriminator_updates": self.discriminator.engine.updates,
            "channels": self.shape.channels,
            "classes": self.shape.classes,
            "data_fingerprint": self.data.fingerprint,
            "layout": self._layout(),
            "game": self.memory.to_json(),
        }

    def load(self, checkpoint: Checkpoint) -> int:
        """Restore everything from a checkpoint of any number of processes and any ZeRO stages.

        Raises UserError if it is of another model or other images.
        """
        checkpoint.require_data(self.data.fingerprint, "images")
        load_all(checkpoint, self.pieces(), self.world)
        for network in self.networks:
            write_back(network.engine)
            network.engine.updates = checkpoint.part(f"{network.engine.name}_updates", natural)
        self.memory = checkpoint.part("game", CollapseHistory.from_json)
        return checkpoint.step

    def facts(self) -> dict[str, str]:
        return {
            "layout": self._layout(),
            "device": self.world.device.type,
            "data_fingerprint": self.data.fingerprint,
        }

    def describe(self) -> str:
        size = micro_size(self.config, self.world.size)
        count = micro_batches(self.config, self.world.size)
        return (
            f"{self._layout()}, {self.world.device}, "
            f"{counted(self.data.samples_per_epoch, 'image')} an epoch, "
            f"{counted(count, 'micro-batch')} of {size} an update"
        )

    def _layout(self) -> str:
        stages = self.config.parallel
        where = "one process" if self.world.size == 1 else f"DP{self.world.size}"
        return f"{where}, ZeRO {stages.generator_stage} (G) and {stages.discriminator_stage} (D)"


def save_network(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a network as a safetensors file; a reader never sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_place_of(path) as partial:
        write_tensors(
            partial, [(name, tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()]
        )
