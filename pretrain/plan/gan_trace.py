"""What the updates of a GAN cost, measured by running the trainer's own (`gan.step`) on fake tensors.

The networks run by themselves, without DeepSpeed: what its stages hold and send is computed in `plan.zero`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from pretrain.config.sections import GanConfig
from pretrain.data.images import ImageBatch
from pretrain.gan import step as gan_step
from pretrain.gan.augment import NUMBERS
from pretrain.gan.networks.build import DISCRIMINATORS, GENERATORS, channels_last
from pretrain.gan.networks.shape import GanShape
from pretrain.gan.penalties import is_due
from pretrain.gan.settings import micro_size
from pretrain.gan.streams import Draw
from pretrain.plan.cost_counter import CostCounter, Work
from pretrain.plan.fake_world import Kind, fake_world


@dataclass(frozen=True)
class NetworkCost:
    """What follows from one network alone."""

    sizes: tuple[int, ...]
    """Elements of each parameter."""
    buffers: int
    """Bytes of running statistics and of spectral normalisation's vectors, on every rank."""


@dataclass(frozen=True)
class Update:
    """One micro-batch of one update."""

    work: Work
    """On average over updates with and without penalties."""
    peak: int
    """The most bytes at a time, beyond what networks hold: activations, images and autograd's gradients."""


@dataclass(frozen=True)
class GanTrace:
    """Both networks and their updates."""

    generator: NetworkCost
    discriminator: NetworkCost
    generator_update: Update
    discriminator_update: Update


def trace_gan(config: GanConfig, shape: GanShape, size: int) -> GanTrace:
    """Run one micro-batch of each update on a rank of a world of `size`.

    Args:
        config: must fit the world (`config.rules`).
    """
    images = micro_size(config, size)
    batch = config.batch.model_copy(update={"global_size": images * size, "micro_size": images})
    config = config.model_copy(update={"batch": batch})
    with ExitStack() as stack:
        world = stack.enter_context(fake_world(0, size, Kind.fake))
        for name, stand_in in (("draw", _draw), ("UpdateMeans", _Means)):
            stack.enter_context(patch.object(gan_step, name, stand_in))
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        kinds = (kinds[config.model.architecture] for kinds in (GENERATORS, DISCRIMINATORS))
        generator, discriminator = (_Engine(kind(shape), dtype) for kind in kinds)
        no_data: Any = None  # never asked: `images` is filled below
        step = gan_step.GanStep(config, world, no_data, *map(_tensors_of, (generator, discriminator)))

        def measured(update: int, run: Callable[[], object]) -> Update:
            with CostCounter() as counter:
                first = update * images * size
                step.images = {range(first, first + images): _image_batch(shape, images)}
                run()
                return Update(counter.work, counter.peak)

        of_discriminator = measured(0, lambda: step.discriminator_update(0))
        if is_due(config.loss, 0) and (every := config.loss.penalty_every or 1) > 1:
            without = measured(1, lambda: step.discriminator_update(1)).work
            work = (of_discriminator.work + without * (every - 1)) * (1 / every)
            of_discriminator = Update(work, of_discriminator.peak)
        of_generator = measured(0, lambda: step.generator_update(0, 0))
        return GanTrace(generator.facts(), discriminator.facts(), of_generator, of_discriminator)


def _image_batch(shape: GanShape, count: int) -> ImageBatch:
    """Images on the device, as bytes without pixel values."""
    pixels = torch.empty(count, shape.channels, shape.size, shape.size, dtype=torch.uint8)
    return ImageBatch(pixels, torch.empty(count, dtype=torch.long) if shape.classes else None)


def _tensors_of(engine: "_Engine") -> Any:
    """Stands in for `gan.zero_shards.NetworkTensors`."""
    return SimpleNamespace(engine=engine, whole=lambda: dict(engine.module.named_parameters()))


class _Engine:
    """Stands in for `gan.engine.Engine`: the bare network, with autograd's gradients."""

    stage = 0

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)  # running statistics stay fp32
        self.module, self.dtype = channels_last(network), dtype

    def facts(self) -> NetworkCost:
        held = sum(buffer.numel() * buffer.element_size() for buffer in self.module.buffers())
        return NetworkCost(tuple(parameter.numel() for parameter in self.module.parameters()), held)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        answer: Tensor = self.module(*inputs)
        return answer

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.module.zero_grad(set_to_none=True)

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        self.module.requires_grad_(False)
        try:
            yield self.module
        finally:
            self.module.requires_grad_(True)


def _draw(_seed: int, _who: str, _update: int, size: int, latent_size: int) -> Draw:
    """Random numbers of which a rank takes its part; without memory, as the real ones are on the host."""
    return Draw(
        latents=torch.empty(1, latent_size).expand(size, -1),
        mix=torch.empty(1, 1, 1, 1).expand(size, -1, -1, -1),
        real_changes=torch.empty(1, NUMBERS).expand(size, -1),
        fake_changes=torch.empty(1, NUMBERS).expand(size, -1),
    )


class _Means:
    """Stands in for `gan.step.UpdateMeans`, with no values to judge."""

    def __init__(self, *_: Any) -> None:
        self._count = 0

    def add(self, *numbers: Tensor) -> None:
        self._count = len(numbers)

    def send(self) -> None:
        pass

    def take(self) -> list[float]:
        return [0.0] * self._count
