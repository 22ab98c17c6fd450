"""A GAN trained by plain PyTorch: one process, the whole batch, both losses written out. The reference.

It shares the networks and the random numbers with the trainer, and nothing of the training.
"""

from typing import Any

import torch
from gan_images import RandomImages
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pretrain.config.sections import GanConfig
from pretrain.gan.augment import Changes
from pretrain.gan.networks.build import build_discriminator, build_generator, shape_of
from pretrain.gan.networks.spectral import advance
from pretrain.gan.streams import draw


def games(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """D's and G's loss, as the papers write them."""
    if kind in ("minimax", "non_saturating"):
        value = (logsigmoid(real) + logsigmoid(-fake)).mean()
        return -value, logsigmoid(-fake).mean() if kind == "minimax" else -logsigmoid(fake).mean()
    if kind == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), -fake.mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean(), -fake.mean()
    return -logsigmoid(real - fake).mean(), -logsigmoid(fake - real).mean()


def gradient_norms(answer: Any, images: Tensor) -> Tensor:
    images = images.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(answer(images).sum(), images, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


class PlainGan:
    """The reference; `step` gives (loss_d, loss_g)."""

    def __init__(self, config: GanConfig) -> None:
        self.config, self.data = config, RandomImages(config.model.image_size)
        shape = shape_of(config.model, config.loss, 1, 10)
        self.generator = build_generator(shape, config.run.seed)
        self.discriminator = build_discriminator(shape, config.run.seed)
        settings = config.optimizer
        keys = {"betas": (settings.beta1, settings.beta2), "eps": settings.eps}
        self.adam_g = torch.optim.Adam(self.generator.parameters(), settings.lr, **keys)  # type: ignore[arg-type]
        rate = settings.discriminator_lr or settings.lr
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), rate, **keys)  # type: ignore[arg-type]
        self.average = {name: tensor.clone() for name, tensor in self.generator.state_dict().items()}
        """Of G's weights, and its buffers as they are."""

    def step(self, step: int) -> tuple[float, float]:
        rounds = self.config.loss.discriminator_steps
        for update in range(step * rounds, (step + 1) * rounds):
            loss_d = self.update_discriminator(update)
        loss_g = self.update_generator(step, (step + 1) * rounds - 1)
        weights = dict(self.generator.named_parameters())
        for name, tensor in self.generator.state_dict().items():
            kept = min(self.config.model.ema_decay, (1 + step) / (10 + step)) if name in weights else 0.0
            self.average[name] = kept * self.average[name] + (1 - kept) * tensor
        return loss_d, loss_g

    def batch(self, who: Any, update: int, images: int) -> tuple[Any, Tensor, Tensor | None]:
        size = self.config.batch.global_size
        numbers = draw(self.config.run.seed, who, update, size, self.config.model.latent_size)
        found = self.data.images(range(images * size, (images + 1) * size))
        return numbers, found.images / 127.5 - 1, found.labels if self.config.model.conditional else None

    def changed(self, numbers: Tensor, images: Tensor) -> Tensor:
        return Changes(self.config.loss.augment, numbers)(images)

    def update_discriminator(self, update: int) -> float:
        loss, numbers_of = self.config.loss, self.batch("discriminator", update, update)
        numbers, real, labels = numbers_of
        advance(self.discriminator)
        with torch.no_grad():
            fake = self.generator(numbers.latents, labels)
        answer_real = self.discriminator(self.changed(numbers.real_changes, real), labels)
        answer_fake = self.discriminator(self.changed(numbers.fake_changes, fake), labels)
        value, _ = games(loss.kind, answer_real, answer_fake)
        every = loss.penalty_every or 1
        if update % every == 0:
            between = numbers.mix * real + (1 - numbers.mix) * fake

            def answer(images: Tensor) -> Tensor:
                answers: Tensor = self.discriminator(self.changed(numbers.real_changes, images), labels)
                return answers

            value = value + every * loss.r1 / 2 * gradient_norms(answer, real).square().mean()
            value = value + every * loss.r2 / 2 * gradient_norms(answer, fake).square().mean()
            lipschitz = (gradient_norms(answer, between) - 1).square().mean()
            value = value + every * loss.gradient_penalty * lipschitz
        self.follow(self.adam_d, self.discriminator, value)
        return value.item()

    def update_generator(self, step: int, update: int) -> float:
        numbers, _, labels = self.batch("generator", step, update)
        _, real, _ = self.batch("generator", step, update)
        fake = self.generator(numbers.latents, labels)
        answer_real = self.discriminator(self.changed(numbers.real_changes, real), labels)
        answer_fake = self.discriminator(self.changed(numbers.fake_changes, fake), labels)
        _, value = games(self.config.loss.kind, answer_real, answer_fake)
        self.follow(self.adam_g, self.generator, value)
        return value.item()

    def follow(self, adam: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        if self.config.optimizer.clip_grad:
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.optimizer.clip_grad)
        adam.step()
