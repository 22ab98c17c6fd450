"""Faults of DeepSpeed's and of ours that train on without an error; each must turn a parity test red."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from pretrain.config.gan_losses import GanLoss
from pretrain.gan import step as game
from pretrain.gan.engine import Engine
from pretrain.gan.networks import batch_norm
from pretrain.gan.zero_shards import NetworkTensors


def two_backward_passes() -> Any:
    """Real and generated images in a backward pass each: stages 1 and 2 lose the first."""

    class Twice(game.GanStep):
        def discriminator_update(self, update: int) -> dict[str, float]:
            engine: Any = self._discriminator._engine
            (micro,) = self._micro_batches("discriminator", update)
            real, _ = self._images(micro.samples)
            with torch.no_grad():
                fake = self._generator.module(self._noise(micro.numbers), None)
            loss_real = torch.nn.functional.softplus(-engine(real)).mean()
            engine.backward(loss_real)
            loss_fake = torch.nn.functional.softplus(engine(fake)).mean()
            engine.backward(loss_fake)
            engine.step()
            total = (loss_real + loss_fake).detach()
            dist.all_reduce(total)
            return {"loss_d": total.item() / dist.get_world_size()}

    return mock.patch("pretrain.gan.trainer.GanStep", Twice)


def discriminator_through_its_engine() -> Any:
    """G's step calls D through its engine, whose hooks then belong to two backward passes."""

    @contextmanager
    def frozen(self: Any) -> Iterator[Any]:
        for _, parameter in self.parameters:
            parameter.requires_grad_(False)
        yield self._engine
        for _, parameter in self.parameters:
            parameter.requires_grad_(True)

    return mock.patch.object(Engine, "frozen", frozen)


def discriminator_not_frozen() -> Any:
    """G's step leaves its gradients in D."""

    @contextmanager
    def frozen(self: Any) -> Iterator[Any]:
        yield self.module

    return mock.patch.object(Engine, "frozen", frozen)


def same_noise_on_every_rank() -> Any:
    """Every rank takes the first rows of the global batch's noise."""
    honest = game.Draw.part
    return mock.patch.object(
        game.Draw, "part", lambda self, rows: honest(self, slice(0, rows.stop - rows.start))
    )


def batch_norm_of_one_rank() -> Any:
    """Each rank normalises by its own images."""
    return mock.patch.object(batch_norm, "_ranks", lambda: 1)


def batch_norm_without_its_gradient() -> Any:
    """Statistics are shared, and the gradient through them stays on its rank."""
    return mock.patch.object(batch_norm._AllReduce, "backward", staticmethod(lambda ctx, gradient: gradient))


def power_iteration_in_every_micro_batch() -> Any:
    """As torch's own spectral normalisation does it, so that micro-batches see different networks."""
    honest = game.GanStep._images

    def images(self: Any, samples: range) -> Any:
        game.advance(self._discriminator.module)
        return honest(self, samples)

    return mock.patch.object(game.GanStep, "_images", images)


def nan_gradient() -> Any:
    """A loss that is finite and has no finite gradient: DeepSpeed skips such an update without a word."""
    honest = GanLoss.of_discriminator

    def broken(loss: Any, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return honest(loss, real, fake) + (real * 0).sqrt().mean()

    return mock.patch.object(GanLoss, "of_discriminator", broken)


def nan_loss_on_one_rank() -> Any:
    """The last rank's images give D a loss that is no number."""
    honest = GanLoss.of_discriminator

    def broken(loss: Any, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        value = honest(loss, real, fake)
        return value * float("nan") if dist.get_rank() == dist.get_world_size() - 1 else value

    return mock.patch.object(GanLoss, "of_discriminator", broken)


def buffers_left_out() -> Any:
    """Checkpoints hold parameters alone, as DeepSpeed's universal ones do."""
    return mock.patch.object(NetworkTensors, "_whole", lambda self, prefix, tensors: iter(()))


MUTATIONS: dict[str, Callable[[], Any]] = {
    function.__name__: function
    for function in (
        two_backward_passes,
        discriminator_through_its_engine,
        discriminator_not_frozen,
        same_noise_on_every_rank,
        batch_norm_of_one_rank,
        batch_norm_without_its_gradient,
        power_iteration_in_every_micro_batch,
        nan_gradient,
        nan_loss_on_one_rank,
        buffers_left_out,
    )
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Run with a fault, or without."""
    if name is None:
        yield
        return
    with MUTATIONS[name]():
        yield
