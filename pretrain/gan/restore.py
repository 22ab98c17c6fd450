"""From a GAN's checkpoint to a generator that makes images, whatever ZeRO stage and world size wrote it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data_tools.typed import natural
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.config.sections import GanConfig
from pretrain.gan.networks.build import build_generator, shape_of
from pretrain.gan.samples import pixels, sample
from pretrain.gan.statistics import measure_statistics
from pretrain.megatron.restore import open_saved
from pretrain.seeds import stream_seed


@dataclass(frozen=True)
class SavedGenerator:
    """G, or its moving average, loaded from a checkpoint."""

    checkpoint: Checkpoint
    config: GanConfig
    network: nn.Module
    channels: int
    classes: int
    """0 where G takes no labels."""
    seed: int
    """Seed of the images that it makes."""

    @property
    def image_size(self) -> int:
        return self.config.model.image_size

    def generate(self, ids: Sequence[int], label: int | None = None) -> Tensor:
        """Images, uint8 [B, C, H, W], on the CPU; each is a function of the seed and its id.

        A conditional G makes images of class `label`, or its classes in turn.
        """
        size = self.config.model.latent_size
        seeds = [stream_seed(self.seed, "generated", number) for number in ids]
        latents = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(n)) for n in seeds])
        labels = None
        if self.classes:
            labels = torch.tensor([number % self.classes if label is None else label for number in ids])
        return pixels(sample(self.network, latents, labels))


def load_generator(
    path: str | Path,
    device: torch.device,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    *,
    average: bool = True,
) -> SavedGenerator:
    """Find, verify and load a run's generator.

    Args:
        path: run folder (its newest good checkpoint) or a step folder.
        seed: of the images to make.
        say: told of newer checkpoints that were passed over, and why.
        average: load the moving average of the weights instead of the weights.

    Raises:
        UserError, IntegrityError: there is none, it is damaged, or the run trained something else.
    """
    checkpoint, config = open_saved(path, GanConfig, "making images", say)
    channels, classes = (checkpoint.part(key, natural) for key in ("channels", "classes"))
    network = build_generator(shape_of(config.model, config.loss, channels, classes), config.run.seed)
    prefix = "ema.generator" if average else "generator"
    weights = [
        ShardedTensor.whole(f"{prefix}.{name}", weight.detach())
        for name, weight in network.named_parameters()
    ]
    buffers = [ShardedTensor.whole(f"generator.{name}", buffer) for name, buffer in network.named_buffers()]
    checkpoint.load([*weights, *buffers])
    if average:
        measure_statistics(network, config.model.latent_size, classes, config.run.seed)
    return SavedGenerator(checkpoint, config, network.to(device).eval(), channels, classes, seed)
