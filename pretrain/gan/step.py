"""The GAN step: one update of D and one of G, in an order under which DeepSpeed trains as plain PyTorch does.

- D sees real and generated images in one pass through its engine, and there is one backward pass.
- In G's update, D is a frozen plain module; through its engine it would be silently wrong at stage 3.
- Penalties call D as a plain module as well.
- Images, noise and augmentation of the global batch are functions of (seed, update), sliced by rank.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.config.gan_losses import LOSSES
from pretrain.config.sections import GanConfig
from pretrain.data.images import ImageBatch, ImageData
from pretrain.data.order import micro_batch_samples
from pretrain.data.transfer import to_device
from pretrain.distributed.ranks import some_ranks
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError
from pretrain.gan.augment import Changes
from pretrain.gan.failed_step import FailedUpdate
from pretrain.gan.networks.spectral import advance
from pretrain.gan.penalties import is_due, penalty
from pretrain.gan.settings import micro_size
from pretrain.gan.streams import Draw, Who, draw
from pretrain.gan.zero_shards import NetworkTensors
from pretrain.health.nonfinite import find_nonfinite


class UpdateMeans:
    """The numbers of one update, as means over its micro-batches and over all ranks; the first is its loss.

    They are summed over the ranks while the backward pass runs, so that no rank waits for them.

    Args:
        world: all its ranks add, send and take together.
        micro_batches: of the update, over all ranks.
    """

    def __init__(self, loss: str, world: DistContext, micro_batches: int) -> None:
        self._loss, self._world = loss, world
        self._micro_batches = micro_batches
        self._sums: Tensor | None = None
        self._message = torch.zeros(0)
        self._sending: Any = None

    def add(self, *numbers: Tensor) -> None:
        """Add one micro-batch's numbers, each a scalar."""
        found = torch.stack([number.detach().double() for number in numbers])
        self._sums = found if self._sums is None else self._sums + found

    def send(self) -> None:
        """Begin the sum over ranks, after the last micro-batch's numbers."""
        assert self._sums is not None, "nothing was added"
        size = self._world.size
        mine = torch.zeros(size, dtype=torch.float64, device=self._sums.device)
        # The losses of all ranks travel with the sums, so that every rank can name the bad ones.
        mine[self._world.rank] = self._sums[0]
        self._message = torch.cat([self._sums / self._micro_batches, mine])
        if size > 1:
            self._sending = dist.all_reduce(self._message, async_op=True)

    def take(self) -> Sequence[float]:
        """Wait for the means, which are the same on every rank.

        Raises HealthError on every rank if the loss is not finite; the message names the ranks where it is
        not.
        """
        if self._sending is not None:
            self._sending.wait()
        found = self._message.tolist()
        means, losses = found[: -self._world.size], found[-self._world.size :]
        if not math.isfinite(means[0]):
            where = some_ranks([rank for rank, value in enumerate(losses) if not math.isfinite(value)])
            raise HealthError(f"{self._loss} is {means[0]} on {where}; the weights were not touched")
        return means


Forward = Callable[[Tensor, Tensor | None], Tensor]
"""G or D, through its engine or as a plain module."""


@dataclass(frozen=True)
class MicroBatch:
    """One rank's images of one forward pass, with their random numbers."""

    samples: range
    """Global indices of its real images; empty for an update of G whose loss sees none."""
    numbers: Draw
    last: bool
    """Whether it is the last of its update."""


class GanStep:
    """The two engines and the images that they train on."""

    def __init__(
        self,
        config: GanConfig,
        world: DistContext,
        data: ImageData,
        generator: NetworkTensors,
        discriminator: NetworkTensors,
    ) -> None:
        self._config, self._world, self._data = config, world, data
        self.images: Mapping[range, ImageBatch] = {}
        """This rank's real images of the current step, by their samples: what `read` returned."""
        self._networks = generator, discriminator
        self._generator, self._discriminator = generator.engine, discriminator.engine
        self._micro_size = micro_size(config, world.size)
        self._whole_discriminator = discriminator.whole

    def read(self, updates: range) -> dict[range, ImageBatch]:
        """Read this rank's real images of these updates of D, by their samples.

        G's update uses those of the last one again.
        """
        batches = (samples for update in updates for samples in self._samples(update))
        return {samples: self._data.images(samples) for samples in batches}

    def discriminator_update(self, update: int) -> dict[str, float]:
        """Update number `update` of D, counted from 0.

        Returns:
            Means over the global batch: `loss_d` with its penalty, `penalty` if one was due, and D's outputs,
            `answer_real` and `answer_fake`.

        Raises:
            HealthError: the loss or gradient is not finite; D is then as before.
        """
        if self._config.model.spectral_norm:
            # Power iterations need whole weights, and at stage 3 a rank holds only a part of them.
            engine = self._discriminator
            advance(engine.module, weights=self._whole_discriminator() if engine.stage == 3 else None)
        due = is_due(self._config.loss, update)
        found = self._descend(
            *("loss_d", update, self._networks[1], list(self._micro_batches("discriminator", update))),
            lambda judge, micro: self._discriminator_numbers(micro, due, judge),
        )
        names = ("loss_d", "penalty", "answer_real", "answer_fake")
        metrics = dict(zip(names, found, strict=True))
        return metrics if due else {name: metrics[name] for name in names if name != "penalty"}

    def generator_update(self, update: int, discriminator_update: int) -> dict[str, float]:
        """Update number `update` of G, counted from 0.

        Args:
            update: of G.
            discriminator_update: of D, whose images and labels are used again if the loss compares with real
                images or the model is conditional.

        Returns:
            `loss_g`, the mean over the global batch.

        Raises:
            HealthError: the loss or gradient is not finite; G is then as before.
        """
        uses_data = LOSSES[self._config.loss.kind].compares or self._config.model.conditional
        # D may have more updates than G, so the images of D's last update are shifted from those of G's
        # number.
        ahead = (discriminator_update - update) * self._config.batch.global_size
        micro_batches = []
        for micro in self._micro_batches("generator", update):
            first, stop = micro.samples.start + ahead, micro.samples.stop + ahead
            micro_batches.append(replace(micro, samples=range(first, stop if uses_data else first)))
        with self._discriminator.frozen() as judge:
            (found,) = self._descend(
                *("loss_g", update, self._networks[0], micro_batches),
                lambda make, micro: self._generator_numbers(micro, make, judge),
            )
        return {"loss_g": found}

    def _descend(
        self,
        loss: str,
        update: int,
        learner: NetworkTensors,
        micro_batches: Sequence[MicroBatch],
        numbers_of: Callable[[Forward, MicroBatch], tuple[Tensor, ...]],
    ) -> Sequence[float]:
        """Update one network: the means over the global batch of its loss, and of what it is made of.

        Args:
            numbers_of: the numbers of a micro-batch, from the learner as an engine or as a plain module.

        Raises:
            HealthError: says which update it is about and where the bad numbers began.
        """
        engine, size = learner.engine, self._config.batch.global_size
        means = UpdateMeans(loss, self._world, size // self._micro_size)
        try:
            for micro in micro_batches:
                numbers = numbers_of(engine.forward, micro)
                means.add(*numbers)
                if micro.last:
                    means.send()
                engine.backward(numbers[0])
                if micro.last:
                    found = means.take()
                engine.step()
        except HealthError as error:
            where = find_nonfinite(
                FailedUpdate(
                    world=self._world,
                    networks=self._networks,
                    learner=learner,
                    samples=[micro.samples for micro in micro_batches],
                    again=[partial(numbers_of, engine.module, micro) for micro in micro_batches],
                    together=self._config.model.batch_norm,
                )
            )
            raise HealthError(f"update {update + 1}: {error}{where}") from None
        return found

    def _discriminator_numbers(self, micro: MicroBatch, due: bool, judge: Forward) -> tuple[Tensor, ...]:
        """Loss with penalty, the penalty (0 if none is due), D's mean outputs for real and fake images."""
        real, labels = self._images(micro.samples)
        with torch.no_grad():
            fake = self._generator.module(self._noise(micro.numbers), labels)
        changes = self._changes(micro.numbers.real_changes, micro.numbers.fake_changes)
        both = None if labels is None else torch.cat([labels, labels])
        real_answers, fake_answers = judge(changes(torch.cat([real, fake])), both).chunk(2)
        value = LOSSES[self._config.loss.kind].of_discriminator(real_answers, fake_answers)
        extra = value.new_zeros(())
        if due:
            extra = self._penalty(micro.numbers, real, fake, labels)
            value = value + extra
        return value, extra, real_answers.float().mean(), fake_answers.float().mean()

    def _generator_numbers(self, micro: MicroBatch, make: Forward, judge: Forward) -> tuple[Tensor]:
        """The loss of a micro-batch, as a tuple like that of D's numbers."""
        loss = LOSSES[self._config.loss.kind]
        real: Tensor | None = None
        labels: Tensor | None = None
        if micro.samples:
            real, labels = self._images(micro.samples)
        fake = make(self._noise(micro.numbers), labels)
        fake_answers = judge(self._changes(micro.numbers.fake_changes)(fake), labels)
        real_answers = None
        if real is not None and loss.compares:
            with torch.no_grad():
                real_answers = judge(self._changes(micro.numbers.real_changes)(real), labels)
        return (loss.of_generator(fake_answers, real_answers),)

    def _micro_batches(self, who: Who, update: int) -> Iterator[MicroBatch]:
        config, size = self._config, self._config.batch.global_size
        numbers = draw(config.run.seed, who, update, size, config.model.latent_size)
        batches = self._samples(update)
        for samples in batches:
            rows = slice(samples.start - update * size, samples.stop - update * size)
            yield MicroBatch(samples, numbers.part(rows), last=samples == batches[-1])

    def _samples(self, update: int) -> list[range]:
        """This rank's samples of an update, a range for each micro-batch."""
        size, world = self._config.batch.global_size, self._world
        return [
            micro_batch_samples(update, index, world.rank, world.size, size, self._micro_size)
            for index in range(size // (self._micro_size * world.size))
        ]

    def _images(self, samples: range) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] in [-1, 1], and labels [B] for a conditional model."""
        pixels, labels = self.images[samples]
        device, dtype = self._world.device, self._discriminator.dtype
        images = (to_device(pixels, device).float() / 127.5 - 1).to(dtype)
        conditional = self._config.model.conditional and labels is not None
        return images, to_device(labels, device) if conditional and labels is not None else None

    def _noise(self, numbers: Draw) -> Tensor:
        return to_device(numbers.latents, self._world.device).to(self._generator.dtype)

    def _changes(self, *numbers: Tensor) -> Changes:
        return Changes(self._config.loss.augment, to_device(torch.cat(numbers), self._world.device))

    def _penalty(self, numbers: Draw, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        mix = to_device(numbers.mix, self._world.device).to(real.dtype)
        answer = partial(self._augmented_answer, self._changes(numbers.real_changes), labels)
        return penalty(self._config.loss, answer, real, fake, mix)

    def _augmented_answer(self, changes: Changes, labels: Tensor | None, images: Tensor) -> Tensor:
        answers: Tensor = self._discriminator.module(changes(images), labels)
        return answers
