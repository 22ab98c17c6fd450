"""Where classes enter: next to G's noise, and in D's output."""

import torch
from torch import Tensor, nn

from pretrain.gan.networks.shape import GanShape, with_gain
from pretrain.gan.networks.spectral import Layers


class Latent(nn.Module):
    """G's input: the noise and, in a conditional model, the embedded class next to it."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        noise = shape.model.latent_size
        self.embedding = nn.Embedding(shape.classes, noise) if shape.classes else None
        self.size = 2 * noise if shape.classes else noise

    def forward(self, z_BL: Tensor, labels_B: Tensor | None) -> Tensor:
        """[B, latent] and [B] -> [B, size]."""
        if self.embedding is None:
            return z_BL
        assert labels_B is not None, "a conditional model needs labels"
        return torch.cat([z_BL, self.embedding(labels_B).to(z_BL.dtype)], 1)


class Head(nn.Module):
    """D's output: a number per image and, in a conditional model, the projection of its features on the class
    (Miyato & Koyama 2018, equation 5)."""

    def __init__(self, shape: GanShape, layers: Layers, inputs: int, features: int) -> None:
        """Args: inputs: of the answer; features: that are projected."""
        super().__init__()
        self.linear = with_gain(layers.linear(inputs, 1, bias=shape.head_bias), 1.0)
        self.embedding = with_gain(layers.embedding(shape.classes, features), 1.0) if shape.classes else None

    def forward(self, inputs_BI: Tensor, features_BF: Tensor, labels_B: Tensor | None) -> Tensor:
        """[B, inputs], [B, features] and [B] -> [B]."""
        answer_B: Tensor = self.linear(inputs_BI).squeeze(1)
        if self.embedding is None:
            return answer_B
        assert labels_B is not None, "a conditional model needs labels"
        projected_B: Tensor = (self.embedding(labels_B) * features_BF).sum(1)
        return answer_B + projected_B
