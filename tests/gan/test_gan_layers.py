"""A GAN's own layers against torch's, and its moving average against one written out."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gan_configs import gan_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.build import build_discriminator, build_generator, shape_of
from pretrain.gan.networks.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear, advance
from pretrain.gan.zero_shards import Ema, ZeroShard


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LAYERS: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module], Tensor]] = {
    "convolution": (
        lambda: SpectralConv2d(3, 4, 3, 2, 1, bias=True),
        lambda: nn.Conv2d(3, 4, 3, 2, 1),
        draw(2, 3, 8, 8, seed=1),
    ),
    "linear": (lambda: SpectralLinear(6, 5, bias=True), lambda: nn.Linear(6, 5), draw(7, 6, seed=1)),
    "embedding": (lambda: SpectralEmbedding(7, 5), lambda: nn.Embedding(7, 5), torch.arange(7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_layers_are_torchs(name: str) -> None:
    """Outputs and gradients with the same vectors, through sigma too; and that sigma becomes the norm."""
    make, make_torchs, x = LAYERS[name]
    ours, plain = make(), make_torchs()
    weight = draw(*ours.weight.shape, seed=2)
    with torch.no_grad():
        ours.weight.copy_(weight)
        plain.weight.copy_(weight)
        if getattr(ours, "bias", None) is not None:
            ours.bias.copy_(draw(len(weight), seed=3))
            plain.bias.copy_(draw(len(weight), seed=3))  # type: ignore[union-attr, operator]
        ours.u.copy_(draw(len(weight), seed=4))
    theirs: Any = spectral_norm(plain)
    advance(ours)
    matrix = weight.flatten(1)
    v = matrix.T @ draw(len(weight), seed=4)
    torch.testing.assert_close(ours.v, v / v.norm())
    u = matrix @ (v / v.norm())
    torch.testing.assert_close(ours.u, u / u.norm())

    theirs.eval()  # torch's own iterates in training
    vectors = theirs.parametrizations.weight[0]
    vectors._u.copy_(ours.u)
    vectors._v.copy_(ours.v)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    slope = draw(*found.shape, seed=5)
    found.backward(slope)
    expected.backward(slope)
    original = theirs.parametrizations.weight.original
    torch.testing.assert_close(ours.weight.grad, original.grad, rtol=1e-5, atol=1e-5)

    advance(ours, 200)
    assert float(torch.linalg.matrix_norm(ours.normalised().detach().flatten(1), 2)) == pytest.approx(
        1, rel=1e-4
    )


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4, 2)], ids=["vectors", "images"])
def test_batch_norm_is_torchs(shape: tuple[int, ...]) -> None:
    """Outputs, gradients and running statistics of three batches, and outputs in evaluation."""
    ours = BatchNorm(5)
    theirs = nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5)
    with torch.no_grad():
        for number, name in enumerate(("weight", "bias")):
            getattr(ours, name).copy_(draw(5, seed=number))
            getattr(theirs, name).copy_(draw(5, seed=number))
    for step in range(3):
        batch = draw(*shape, seed=10 + step) * 3 + 2
        inputs = [batch.clone().requires_grad_(), batch.clone().requires_grad_()]
        outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
        for output in outputs:
            output.backward(draw(*shape, seed=20 + step))
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad, rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    batch = draw(*shape, seed=30)
    torch.testing.assert_close(ours.eval()(batch), theirs.eval()(batch), rtol=1e-5, atol=1e-5)


def test_initial_weights_keep_the_variance() -> None:
    """The root of 2 (1 where no rectifier follows) over the inputs that add up in one output."""
    config = gan_config(model__generator_channels=32, model__discriminator_channels=32)
    shape = shape_of(config.model, config.loss, 1, 0)
    generator, discriminator = build_generator(shape, 1), build_discriminator(shape, 1)
    inputs = {
        "first": (generator.first, 2, 8),
        "up": (generator.ups[0], 2, 128 * 4),  # of 128 channels 4 x 4, each output sees a quarter
        "out": (generator.out, 1, 32 * 9),
        "D's first": (discriminator.first, 2, 9),
        "down": (discriminator.downs[0], 2, 32 * 16),
        "head": (discriminator.head.linear, 1, 128 * 16),
    }
    for name, (layer, gain, count) in inputs.items():
        weight: Any = layer.weight  # type: ignore[union-attr]
        error = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a deviation
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(gain / count), rel=error), name


def test_the_average_forgets_the_first_weights_soon() -> None:
    """The share that stays is 1/10, 2/11, 3/12, ..., never more than `ema_decay` (here 0.2)."""
    weights = torch.tensor([1.0])
    part = ZeroShard("w", (1,), 0, 1, weights, {}, shared=True)
    average = Ema([part], 0.2)
    found = []
    for step, value in enumerate((2.0, 4.0, 1.0, 3.0)):
        weights.fill_(value)
        average.update(step)
        found.append(float(average.tensors[0]))
    # 0.1 x 1 + 0.9 x 2; 2/11 x 1.9 + 9/11 x 4; 0.2 x 3.61818 + 0.8 x 1; 0.2 x 1.52364 + 0.8 x 3
    assert found == pytest.approx([1.9, 3.6181818, 1.5236364, 2.7047273], rel=1e-6)
    assert weights.tolist() == [3.0]
