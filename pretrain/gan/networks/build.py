"""Builds the two networks and draws their initial weights."""

import math
from typing import Any

import torch
from torch import nn

from pretrain.config.gan_losses import LOSSES
from pretrain.config.sections.gan import GanLossConfig, GanModelConfig
from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.dcgan import DcganDiscriminator, DcganGenerator
from pretrain.gan.networks.mlp import MlpDiscriminator, MlpGenerator
from pretrain.gan.networks.modern import ModernDiscriminator, ModernGenerator
from pretrain.gan.networks.resnet import ResnetDiscriminator, ResnetGenerator
from pretrain.gan.networks.shape import GanShape
from pretrain.gan.networks.spectral import advance
from pretrain.seeds import stream_seed

GENERATORS: dict[str, type[nn.Module]] = {
    "mlp": MlpGenerator,
    "dcgan": DcganGenerator,
    "resnet": ResnetGenerator,
    "modern": ModernGenerator,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "mlp": MlpDiscriminator,
    "dcgan": DcganDiscriminator,
    "resnet": ResnetDiscriminator,
    "modern": ModernDiscriminator,
}
RECTIFIER = math.sqrt(2)
"""Gain of a layer that a ReLU follows (He et al. 2015); other layers state theirs (`shape.with_gain`)."""
FIRST_ITERATIONS = 15
"""Power iterations before the first step, from a random vector."""


def shape_of(model: GanModelConfig, loss: GanLossConfig, channels: int, classes: int) -> GanShape:
    """What the networks of a config are built for.

    Args:
        model: the config's section.
        loss: decides whether D's output has a bias.
        classes: of the images; used only by a conditional model.
    """
    head_bias = not LOSSES[loss.kind].sees_differences
    return GanShape(model, channels, classes if model.conditional else 0, head_bias)


def build_generator(shape: GanShape, seed: int) -> nn.Module:
    """G: (noise [B, latent], labels [B] or None) -> images [B, C, H, W] in [-1, 1]."""
    generator = GENERATORS[shape.model.architecture](shape)
    _initialise(generator, "generator", shape.model.init_std, seed)
    return generator


def build_discriminator(shape: GanShape, seed: int) -> nn.Module:
    """D: (images [B, C, H, W], labels [B] or None) -> outputs [B], above 0 for real."""
    discriminator = DISCRIMINATORS[shape.model.architecture](shape)
    _initialise(discriminator, "discriminator", shape.model.init_std, seed)
    return discriminator


def parameter_counts(shape: GanShape) -> tuple[int, int]:
    """Parameters of G and of D, counted without allocating them."""
    with torch.device("meta"):
        kinds = GENERATORS[shape.model.architecture], DISCRIMINATORS[shape.model.architecture]
        generator, discriminator = (kind(shape) for kind in kinds)
    return _count(generator), _count(discriminator)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def _initialise(network: nn.Module, name: str, std: float | None, seed: int) -> None:
    """Draw each tensor from a generator seeded by its name: equal bits on every rank and stage."""
    for place, module in network.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            random = torch.Generator().manual_seed(stream_seed(seed, name, f"{place}.{leaf}"))
            if isinstance(module, BatchNorm):
                continue
            if leaf == "bias":
                tensor.zero_()
            elif leaf == "basis" or place == "latent.embedding":
                tensor.normal_(generator=random)  # unit variance, like the noise that they are used with
            else:
                gain = getattr(module, "gain", RECTIFIER)
                scale = gain and (std or gain / math.sqrt(_fan_in(module, tensor)))
                tensor.normal_(generator=random).mul_(scale)
        if "u" in dict(module.named_buffers(recurse=False)):
            random = torch.Generator().manual_seed(stream_seed(seed, name, f"{place}.u"))
            module.u.normal_(generator=random)
    advance(network, FIRST_ITERATIONS)


def _fan_in(module: nn.Module, weight: torch.Tensor) -> float:
    """Inputs that add up in one output."""
    if isinstance(module, nn.ConvTranspose2d):
        area = weight[0, 0].numel() / (module.stride[0] * module.stride[1])
        return weight.shape[0] * area
    return weight[0].numel()


def channels_last(network: nn.Module) -> nn.Module:
    """Make every convolution of a network take its images channels last; its outputs are then, too.

    On a CPU a whole step is 7 to 25 % faster at 32 x 32 and 64 x 64, and no slower at 16 x 16; tensor cores
    want it too. Weights stay as they are, so checkpoints are not affected.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_pre_hook(_lay_out)
    return network


def _lay_out(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = inputs
    return images.contiguous(memory_format=torch.channels_last), *others
