"""Parts of a GAN's trainer that need no engine: augmentation, moving average, verdicts, grids."""

import math

import pytest
import torch
from torch import Tensor

from pretrain.config.sections.gan import Augmentation, GanLossConfig
from pretrain.gan.augment import NUMBERS, Changes
from pretrain.gan.collapse import FIRST, CollapseHistory, are_alike
from pretrain.gan.samples import GAP, diversity, grid, pixels
from pretrain.gan.streams import draw

KINDS: tuple[Augmentation, ...] = ("color", "translation", "cutout")
SIDE = 16


def images(count: int = 4, channels: int = 3, side: int = SIDE) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, side, side, generator=random, dtype=torch.float64) * 2 - 1


def numbers(count: int = 4) -> Tensor:
    return torch.rand(count, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_changes_each_image_and_passes_gradients(kind: Augmentation) -> None:
    batch, changed = images(), Changes((kind,), numbers())(images())
    assert changed.shape == batch.shape
    assert all(not torch.equal(before, after) for before, after in zip(batch, changed, strict=True))
    small, few = images(2, 3, 4), numbers(2)
    assert torch.autograd.gradcheck(Changes((kind,), few), (small.requires_grad_(),))
    assert torch.autograd.gradgradcheck(Changes((kind,), few), (small,)), "penalties differentiate twice"


def test_no_augmentation_is_none() -> None:
    assert torch.equal(Changes((), numbers())(images()), images())


def test_an_images_change_follows_from_its_own_numbers() -> None:
    """So that it does not matter which process an image is on."""
    whole = Changes(KINDS, numbers())(images())
    parts = [Changes(KINDS, numbers()[rows])(images()[rows]) for rows in (slice(0, 1), slice(1, 4))]
    # Means over fewer images at once may be summed in another order, in fp64.
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-12)


def test_translation_moves_by_up_to_an_eighth_over_black() -> None:
    dot = torch.full((200, 1, SIDE, SIDE), -1.0)
    dot[:, :, 8, 8] = 1.0
    moved = Changes(("translation",), torch.rand(200, NUMBERS))(dot)
    places = {tuple(place.tolist()) for place in (moved[:, 0] == 1).nonzero()[:, 1:]}
    assert places == {(row, column) for row in range(6, 11) for column in range(6, 11)}
    edge = Changes(("translation",), torch.zeros(1, NUMBERS))(torch.ones(1, 1, SIDE, SIDE))
    assert float(edge.min()) == -1.0


def test_cutout_is_a_hole_of_half_the_side() -> None:
    """Of 16 pixels 8, from 4 before to 4 after a middle that may lie on an edge."""
    for number, (first, stop) in {0.0: (0, 4), 0.2: (0, 7), 0.5: (4, 12), 0.999: (12, 16)}.items():
        cut = Changes(("cutout",), torch.full((1, NUMBERS), number))(torch.ones(1, 1, SIDE, SIDE))
        expected = torch.ones(SIDE, SIDE)
        expected[first:stop, first:stop] = 0
        assert torch.equal(cut[0, 0], expected), number


def test_colour_keeps_shapes() -> None:
    """Brightness, saturation and contrast are the same for every pixel: order is kept in a grey image."""
    changed = Changes(("color",), numbers())(images(channels=1))
    for before, after in zip(images(channels=1), changed, strict=True):
        assert torch.equal(before.flatten().argsort(), after.flatten().argsort())


def test_colour_by_hand() -> None:
    """Brightness +0.25; half the saturation; 1.4 times the contrast, around the mean of 0.45."""
    draws = torch.tensor([[0.75, 0.25, 0.9, 0, 0, 0, 0]])
    pixels_of = torch.tensor([[0.2, 0.4, 0.6], [-0.4, 0.0, 0.4]])
    changed = Changes(("color",), draws)(pixels_of.T.view(1, 3, 1, 2)).view(3, 2).T
    # Brighter (0.45 0.65 0.85) and (-0.15 0.25 0.65); paler (0.55 0.65 0.75) and (0.05 0.25 0.45).
    expected = torch.tensor([[0.59, 0.73, 0.87], [-0.11, 0.17, 0.45]])
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)


def test_draws_are_functions_of_seed_and_update() -> None:
    one, same = (draw(3, "generator", 5, 8, 4) for _ in range(2))
    assert torch.equal(one.latents, same.latents)
    for other in (
        draw(4, "generator", 5, 8, 4),
        draw(3, "generator", 6, 8, 4),
        draw(3, "discriminator", 5, 8, 4),
    ):
        assert not torch.equal(one.latents, other.latents)
    assert torch.equal(one.part(slice(2, 4)).mix, one.mix[2:4])


@pytest.mark.parametrize(("kind", "tie"), [("non_saturating", 2 * math.log(2)), ("hinge", 2.0)])
def test_d_has_won_when_its_loss_stays_far_below_a_tie(kind: str, tie: float) -> None:
    loss = GanLossConfig.model_validate({"kind": kind})
    memory = CollapseHistory()
    for _ in range(FIRST - 1):
        memory = memory.after(0.001 * tie)
    assert not memory.has_ended(loss), "judged too early"
    assert memory.after(0.001 * tie).has_ended(loss)
    assert CollapseHistory.from_json(memory.to_json()) == memory
    for _ in range(500):
        memory = memory.after(0.5 * tie)
    assert not memory.has_ended(loss), "a game that goes on again has not ended"
    assert not CollapseHistory(-5.0, 1000).has_ended(GanLossConfig.model_validate({"kind": "wasserstein"}))


def test_samples_that_are_nearly_one_image_are_alike() -> None:
    real, one = images(16), images(1)
    nearly = one + 0.01 * images(16)
    assert diversity(one.repeat(16, 1, 1, 1)) == 0
    assert are_alike(diversity(nearly), diversity(real))
    assert not are_alike(diversity(0.5 * real), diversity(real))
    flat = real.flatten(1)
    pairs = [float((a - b).square().mean().sqrt()) for i, a in enumerate(flat) for b in flat[:i]]
    assert diversity(real) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)


def test_one_image_a_class_is_no_diversity() -> None:
    labels = torch.arange(16) % 4
    per_class = images(4)[labels]
    assert diversity(per_class) > 0.3
    assert diversity(per_class, labels) == 0
    assert diversity(images(4), torch.arange(4)) == diversity(images(4)), "no class has two"


def test_a_grid_holds_every_image_in_its_place() -> None:
    made = pixels(images(5))
    canvas = grid(made)
    assert canvas.shape == (2 * SIDE + GAP, 3 * SIDE + 2 * GAP, 3)
    for number, image in enumerate(made):
        top, left = number // 3 * (SIDE + GAP), number % 3 * (SIDE + GAP)
        assert (canvas[top : top + SIDE, left : left + SIDE] == image.permute(1, 2, 0).numpy()).all()
    assert pixels(torch.tensor([[[[-3.0, -1.0, 0.0, 1.0, 3.0]]]])).flatten().tolist() == [0, 0, 128, 255, 255]
