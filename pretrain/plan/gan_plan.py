"""The plan of a GAN under DeepSpeed on a cluster: memory by network, FLOPs, communication and time."""

from dataclasses import dataclass

from pretrain.config.hardware import STREAM, Cluster
from pretrain.config.sections import GanConfig
from pretrain.gan import settings
from pretrain.gan.networks.build import shape_of
from pretrain.plan.gan_trace import Update, trace_gan
from pretrain.plan.timing import Communication, seconds_of
from pretrain.plan.zero import WIDE, NetworkMemory, Sharding

ASSUMED_CHANNELS = 3

OWN_PASSES = 2
"""Forward and backward: how often stage 3 gathers a network's weights in a micro-batch of its own update."""


@dataclass(frozen=True)
class Images:
    """What the data says about the networks."""

    channels: int = ASSUMED_CHANNELS
    classes: int = 0
    known: bool = False
    """Whether that is the data's; it is assumed otherwise."""


@dataclass(frozen=True)
class GanTime:
    """Seconds of one step, by cause; the least that it takes."""

    compute: float
    """Passes of all updates, by the roofline."""
    reduction: float
    """Gradients and weights over the ranks; DeepSpeed hides none of it behind the passes."""
    update: float
    """Updates of both optimizers and of the average."""

    @property
    def total(self) -> float:
        return self.compute + self.reduction + self.update


@dataclass(frozen=True)
class GanPlan:
    """What follows from a GAN's config and a cluster."""

    images: Images
    generator: NetworkMemory
    discriminator: NetworkMemory
    activations: int
    """The most bytes of an update beyond weights and states: activations and autograd's gradients."""
    reducing: int
    """The most bytes that the reduction takes in addition."""
    gathered: int
    """Weights that stage 3 gathers for a pass, and may keep for the next."""
    micro_batches: int
    """Micro-batches of an update on one rank."""
    flops_per_step: float
    """FLOPs of one rank: D's updates and G's, penalties included."""
    traffic: tuple[Communication, ...]
    time: GanTime
    images_per_step: int
    """Real images that D sees in a step."""

    def total(self, offloaded: bool) -> int:
        """Bytes on the GPU; offloaded optimizer states are not on it."""
        networks = (self.generator, self.discriminator)
        held = sum(each.total - (each.optimizer if offloaded and each.stage else 0) for each in networks)
        return held + self.activations + self.reducing + self.gathered

    @property
    def images_per_second(self) -> float:
        return self.images_per_step / self.time.total


def plan_gan(config: GanConfig, cluster: Cluster, images: Images) -> GanPlan:
    """Plan a GAN that fits the cluster (`config.rules`)."""
    shape = shape_of(config.model, config.loss, images.channels, images.classes)
    traced = trace_gan(config, shape, cluster.size)
    bf16, ranks, rounds = config.precision == "bf16", cluster.size, config.loss.discriminator_steps
    micro_batches = settings.micro_batches(config, ranks)
    generator = Sharding(traced.generator, config.parallel.generator_stage, ranks, bf16)
    discriminator = Sharding(traced.discriminator, config.parallel.discriminator_stage, ranks, bf16)
    updates: list[tuple[Update, Sharding]] = [
        (traced.discriminator_update, discriminator),
        (traced.generator_update, generator),
    ]
    fullest, reduced = max(updates, key=lambda each: each[0].peak + each[1].reducing(micro_batches))
    work = (traced.discriminator_update.work * rounds + traced.generator_update.work) * micro_batches
    traffic = _traffic(config, cluster, generator, discriminator, micro_batches)
    return GanPlan(
        images=images,
        generator=generator.memory("generator", averaged=True),
        discriminator=discriminator.memory("discriminator", averaged=False),
        activations=fullest.peak,
        reducing=reduced.reducing(micro_batches),
        gathered=generator.gathered() + discriminator.gathered(),
        micro_batches=micro_batches,
        flops_per_step=work.flops,
        traffic=traffic,
        time=GanTime(
            compute=seconds_of(work, cluster, config.precision),
            reduction=sum(each.seconds for each in traffic),
            update=(_touched(discriminator) * rounds + _touched(generator) + 3 * WIDE * generator.owned)
            / (cluster.gpu.bandwidth * STREAM),
        ),
        images_per_step=rounds * config.batch.global_size,
    )


def _traffic(
    config: GanConfig, cluster: Cluster, generator: Sharding, discriminator: Sharding, micro_batches: int
) -> tuple[Communication, ...]:
    """What a rank sends in a step for each network, at most."""
    if cluster.size == 1:
        return ()
    rounds, spectral = config.loss.discriminator_steps, config.model.spectral_norm
    once = micro_batches / cluster.size * (cluster.size - 1)
    # Stage 3 gathers each network in the other's update once.
    sent = {
        "generator": generator.sent(micro_batches, OWN_PASSES) + rounds * once * generator.gathered(),
        "discriminator": rounds * discriminator.sent(micro_batches, OWN_PASSES, spectral=spectral)
        + once * discriminator.gathered(),
    }
    crosses, rate = cluster.crosses(cluster.size), cluster.rate(cluster.size)
    return tuple(Communication(name, cluster.size, crosses, size, size / rate) for name, size in sent.items())


def _touched(network: Sharding) -> float:
    """Bytes that an optimizer update reads and writes.

    Gradient, moments and master, and the weights if they are separate from the master.
    """
    return (WIDE + 6 * WIDE + (network.narrow if network.stage else 0)) * network.owned
