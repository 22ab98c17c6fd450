"""The plan of a GAN under DeepSpeed: what each ZeRO stage leaves on a rank, and what a step multiplies.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5,
and the partitions that DeepSpeed 0.19 makes of them.
"""

from dataclasses import dataclass

import torch
from torch import nn

from pretrain.config.sections import GanConfig
from pretrain.gan.settings import micro_size
from pretrain.models.gan.build import DISCRIMINATORS, GENERATORS, shape_of
from pretrain.plan.hardware import Cluster
from pretrain.plan.ledger import Ledger, Work
from pretrain.plan.timing import seconds_of

ASSUMED_CHANNELS = 3


@dataclass(frozen=True)
class NetworkMemory:
    """One network on one rank, in bytes."""

    name: str
    parameters: int
    stage: int
    weights: float
    gradients: float
    optimizer: float
    """Both moments, and fp32 master weights of bf16 runs and of stages; in the host's memory if offloaded."""

    @property
    def total(self) -> float:
        """All three."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class GanPlan:
    """What follows from a GAN's config and a number of GPUs."""

    generator: NetworkMemory
    discriminator: NetworkMemory
    activations: int
    """Of one micro-batch: the larger of D's update on real and generated images and G's through D."""
    flops_per_step: float
    """Of one rank: D's updates and G's, without penalties."""
    step_seconds: float
    """By the roofline alone, without penalties, reductions and the optimizers."""

    def total(self, offloaded: bool) -> float:
        """Bytes on the card."""
        networks = (self.generator, self.discriminator)
        held = sum(each.total - (each.optimizer if offloaded and each.stage else 0) for each in networks)
        return held + self.activations


def network_memory(name: str, parameters: int, stage: int, ranks: int, bf16: bool) -> NetworkMemory:
    """ZeRO's arithmetic: stage 1 divides optimizer states by the ranks, 2 gradients too, 3 weights too."""
    wide = 4
    narrow = 2 if bf16 else 4
    shares = [ranks if stage >= level else 1 for level in (3, 2, 1)]
    master = wide if bf16 or stage else 0
    return NetworkMemory(
        name,
        parameters,
        stage,
        weights=narrow * parameters / shares[0],
        gradients=wide * parameters / shares[1],
        optimizer=(2 * wide + master) * parameters / shares[2],
    )


def plan_gan(config: GanConfig, cluster: Cluster) -> GanPlan:
    """Plan a GAN whose images are RGB without classes, as no data is opened."""
    shape = shape_of(config.model, config.loss, ASSUMED_CHANNELS, 0)
    kind = config.model.architecture
    bf16, ranks = config.precision == "bf16", cluster.size
    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.device("meta"):
        generator, discriminator = GENERATORS[kind](shape), DISCRIMINATORS[kind](shape)
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        parameter.data = parameter.data.to(dtype)  # running statistics stay fp32
    images = micro_size(config, ranks)
    critic, for_d = _discriminator_update(generator, discriminator, config, images, dtype)
    maker, for_g = _generator_update(generator, discriminator, config, images, dtype)
    rounds = config.batch.global_size // (images * ranks)
    work = (critic * config.loss.discriminator_steps + maker) * rounds
    stages = config.parallel.generator_stage, config.parallel.discriminator_stage
    held = [
        network_memory(name, sum(p.numel() for p in network.parameters()), stage, ranks, bf16)
        for name, network, stage in zip(
            ("generator", "discriminator"), (generator, discriminator), stages, strict=True
        )
    ]
    return GanPlan(
        held[0], held[1], max(for_d, for_g), work.flops, seconds_of(work, cluster, config.precision)
    )


def _noise(config: GanConfig, images: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(images, config.model.latent_size, device="meta", dtype=dtype)


def _discriminator_update(
    generator: nn.Module, discriminator: nn.Module, config: GanConfig, images: int, dtype: torch.dtype
) -> tuple[Work, int]:
    """One pass of real and generated images together, forward and backward; its work and its peak."""
    side = config.model.image_size
    with torch.device("meta"), Ledger() as ledger:
        with torch.no_grad():
            made = generator(_noise(config, images, dtype), None)
        real = torch.empty(images, ASSUMED_CHANNELS, side, side, dtype=dtype)
        discriminator(torch.cat([real, made]), None).sum().backward()
        peak = ledger.peak
        discriminator.zero_grad(set_to_none=True)
        return ledger.work, peak


def _generator_update(
    generator: nn.Module, discriminator: nn.Module, config: GanConfig, images: int, dtype: torch.dtype
) -> tuple[Work, int]:
    """Generated images through D, whose own gradients are not made."""
    discriminator.requires_grad_(False)
    with torch.device("meta"), Ledger() as ledger:
        discriminator(generator(_noise(config, images, dtype), None), None).sum().backward()
        return ledger.work, ledger.peak
