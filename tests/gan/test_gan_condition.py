"""Where classes enter a GAN, written out."""

import numpy as np
import pytest
import torch
from gan_configs import gan_config

from pretrain.gan.networks.condition import Head, Latent
from pretrain.gan.networks.shape import GanShape
from pretrain.gan.networks.spectral import Layers


def conditional(classes: int = 3) -> GanShape:
    return GanShape(gan_config(model__conditional=True).model, channels=1, classes=classes, head_bias=True)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_answer_of_d_is_a_linear_one_and_the_projection_on_the_class() -> None:
    """Miyato & Koyama 2018, equation 5: f(x) = psi(phi(x)) + y^T V phi(x), a sum over the features."""
    head = Head(conditional(), Layers(spectral=False), inputs=5, features=7)
    with torch.no_grad():
        for number, weight in enumerate(head.parameters()):
            weight.copy_(drawn(number, *weight.shape))
    inputs, features, labels = drawn(10, 4, 5), drawn(11, 4, 7), torch.tensor([2, 0, 1, 2])
    assert head.embedding is not None
    weight, bias = head.linear.weight.detach().numpy()[0], float(head.linear.bias.detach())
    embedding = head.embedding.weight.detach().numpy()
    expected = [
        sum(weight[i] * float(inputs[row, i]) for i in range(5))
        + bias
        + sum(embedding[label, i] * float(features[row, i]) for i in range(7))
        for row, label in enumerate(labels.tolist())
    ]
    assert head(inputs, features, labels).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_class_stands_beside_the_noise_of_g() -> None:
    latent = Latent(conditional())
    assert latent.embedding is not None and latent.size == 2 * 8
    with torch.no_grad():
        latent.embedding.weight.copy_(drawn(0, 3, 8))
    noise, labels = drawn(1, 4, 8), torch.tensor([2, 0, 1, 2])
    table = latent.embedding.weight.detach().numpy()
    expected = np.concatenate([noise.numpy(), table[[2, 0, 1, 2]]], 1)
    assert np.array_equal(latent(noise, labels).detach().numpy(), expected)
