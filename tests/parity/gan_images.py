"""Images from a generator of random numbers, in the form that the GAN's trainer takes."""

from collections.abc import Sequence

import torch

from pretrain.data.images import ImageBatch


class RandomImages:
    """64 random grey images of ten classes; sample i is image i modulo 64."""

    channels, num_classes, samples_per_epoch, fingerprint = 1, 10, 64, "random"

    def __init__(self, size: int = 16) -> None:
        generator = torch.Generator().manual_seed(3)
        self.size = size
        self.pixels = torch.randint(0, 256, (64, 1, size, size), generator=generator, dtype=torch.uint8)
        self.labels = torch.arange(64) * 7 % 10

    def images(self, sample_ids: Sequence[int]) -> ImageBatch:
        rows = torch.tensor([sample_id % 64 for sample_id in sample_ids])
        return ImageBatch(self.pixels[rows], self.labels[rows])
