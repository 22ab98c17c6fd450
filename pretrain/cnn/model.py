"""A plain convolutional classifier, which is also the feature extractor for small images.

Shapes: B images, C channels, H x W pixels, F features, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.config.sections import CnnModelConfig
from pretrain.errors import UserError
from pretrain.seeds import stream_seed


class Cnn(nn.Module):
    """A convolution, then `stages` that halve the sides, then a layer of F features and one of K logits.

    There is no normalisation, so an image's features do not depend on the batch that it is in.
    """

    def __init__(self, config: CnnModelConfig, channels: int, size: int, classes: int) -> None:
        super().__init__()
        side = size >> config.stages
        widths = [config.width << stage for stage in range(config.stages)]
        layers: list[nn.Module] = [nn.Conv2d(channels, config.width, 3, padding=1), nn.ReLU()]
        for before, after in zip([config.width, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.embed = nn.Linear(widths[-1] * side * side, config.features)
        self.head = nn.Linear(config.features, classes)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """The features of each image, [B, F], none below 0.

        images: uint8 [B, C, H, W].
        """
        inputs_BCHW = images_BCHW.to(self.embed.weight.dtype) / 127.5 - 1
        hidden_BD = self.stem(inputs_BCHW).flatten(1)
        return functional.relu(self.embed(hidden_BD))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K] of uint8 images [B, C, H, W]."""
        logits_BK: Tensor = self.head(self.features(images_BCHW))
        return logits_BK


def build_cnn(config: CnnModelConfig, channels: int, size: int, classes: int, seed: int) -> Cnn:
    """A new model, whose weights are a function of the arguments alone.

    Raises UserError if the stages do not divide the image.
    """
    if size % (1 << config.stages):
        most = (size & -size).bit_length() - 1
        raise UserError(
            f"{config.stages} stages do not halve images of {size} x {size} pixels evenly; "
            + (f"at most {most} do" if most else f"build the images with an even --size, such as {size + 1}"),
            "model.stages",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "cnn"))
        return Cnn(config, channels, size, classes)


def shifted(images_BCHW: Tensor, pixels: int, keys: list[int]) -> Tensor:
    """Images moved by up to `pixels` in each direction over black, each as its key says.

    images: uint8 [B, C, H, W]; keys: a random number for each.
    """
    span, size = 2 * pixels + 1, images_BCHW.shape[-1]
    padded = functional.pad(images_BCHW, [pixels] * 4)
    # Two independent shifts from one number: its remainder, and that of its quotient.
    shifts = [(key % span, key // span % span) for key in keys]
    moved = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(padded, shifts, strict=True)
    ]
    return torch.stack(moved)
