"""Frechet distance, KID, precision/recall, density/coverage against independent implementations."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist

from evals.frechet import frechet_distance
from evals.kid import kernel_distance, unit_scale
from evals.precision_recall import memorised, precision_recall

Array = npt.NDArray[np.float64]


def two_sets(seed: int, count: int = 300, other: int = 250, size: int = 12) -> tuple[Array, Array]:
    """Correlated features of a little different distributions, none below 0 as after a ReLU."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(size, size))
    a = generator.normal(size=(count, size)) @ mix + 1
    b = generator.normal(size=(other, size)) @ (mix + 0.2) + generator.normal(size=size)
    return np.maximum(a, 0), np.maximum(b, 0)


def by_sqrtm(a: Array, b: Array) -> float:
    """As the formula stands, with a general matrix root."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 12, 64])
def test_frechet_distance_is_that_of_the_matrix_root(seed: int, size: int) -> None:
    a, b = two_sets(seed, size=size)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    single = frechet_distance(a.astype(np.float32), b.astype(np.float32))
    assert single == pytest.approx(by_sqrtm(a, b), rel=1e-5)


def test_frechet_distance_with_fewer_images_than_features() -> None:
    """Singular covariances: the nuclear norm of the centred sets' product is tr (S1 S2)^(1/2)."""
    a, b = two_sets(1, count=20, other=30, size=64)
    left, right = a - a.mean(0), b - b.mean(0)
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum() / math.sqrt(19 * 29)
    difference = a.mean(0) - b.mean(0)
    expected = difference @ difference + (left**2).sum() / 19 + (right**2).sum() / 29 - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """Sets with exactly these moments: d^2 = sum (m1 - m2)^2 + (s1 - s2)^2 along common axes."""
    generator = np.random.default_rng(3)
    raw = generator.normal(size=(500, 4))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    scale_a, scale_b = np.array([1.0, 2, 3, 0.1]), np.array([2.0, 2, 0.5, 1])
    shift = np.array([1.0, 0, -2, 0.5])
    a, b = white * scale_a @ turn, (white * scale_b + shift) @ turn
    expected = (shift**2).sum() + ((scale_a - scale_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_kid_is_the_unbiased_estimate_written_out(seed: int) -> None:
    a, b = two_sets(seed, count=21, other=17)

    def kernel(x: Array, y: Array) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    expected = sum(kernel(x, y) for x, y in itertools.permutations(a, 2)) / (21 * 20)
    expected += sum(kernel(x, y) for x, y in itertools.permutations(b, 2)) / (17 * 16)
    expected -= 2 * sum(kernel(x, y) for x, y in itertools.product(a, b)) / (21 * 17)
    estimate, error = kernel_distance(a, b)
    assert estimate == pytest.approx(expected, rel=1e-6)
    assert kernel_distance(a, a)[0] < 0
    parts = [
        [kernel_distance(np.delete(a, row, 0), b)[0] for row in range(len(a))],
        [kernel_distance(a, np.delete(b, row, 0))[0] for row in range(len(b))],
    ]
    variance = sum((len(each) - 1) / len(each) * ((each - np.mean(each)) ** 2).sum() for each in parts)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_the_error_of_kid_is_its_spread_over_draws() -> None:
    drawn = [kernel_distance(*_draw(seed)) for seed in range(300)]
    estimates, errors = np.array(drawn).T
    assert float(np.sqrt((errors**2).mean())) == pytest.approx(estimates.std(ddof=1), rel=0.15)


def _draw(seed: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(80, 6)), generator.normal(size=(60, 6)) * 1.3 + 0.3


def test_kid_does_not_depend_on_how_many_rows_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_sets(5)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("evals.kid.ROWS", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)


def by_distances(real: Array, generated: Array) -> dict[str, float]:
    """All four from whole distance matrices."""
    between, own, theirs = cdist(real, generated), cdist(real, real), cdist(generated, generated)
    radius = {k: np.sort(own, 1)[:, k] for k in (3, 5)}  # its nearest is itself
    return {
        "precision": float((between <= radius[3][:, None]).any(0).mean()),
        "recall": float((between <= np.sort(theirs, 1)[:, 3]).any(1).mean()),
        "density": float((between <= radius[5][:, None]).sum(0).mean() / 5),
        "coverage": float((between.min(1) <= radius[5]).mean()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_torchmetrics(seed: int) -> None:
    """Its functions of features; its classes would load Inception."""
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    a, b = two_sets(seed, count=250)
    first, second = torch.from_numpy(a), torch.from_numpy(b)
    distance = _compute_fid(first.mean(0), first.T.cov(), second.mean(0), second.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(distance), rel=1e-6)
    assert kernel_distance(a, b)[0] == pytest.approx(float(poly_mmd(first, second)), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_density_coverage(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = two_sets(seed, size=4)
    expected = by_distances(real, generated)
    assert len({0.0, 1.0, *expected.values()}) > 4
    assert precision_recall(real, generated) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr("evals.precision_recall.ROWS", 7)
    assert precision_recall(real, generated) == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_see_what_is_wrong() -> None:
    generator = np.random.default_rng(0)
    real = generator.normal(size=(400, 3))
    narrow = generator.normal(size=(400, 3)) * 0.1
    wide = generator.normal(size=(400, 3)) * 10
    fewer, noise = precision_recall(real, narrow), precision_recall(real, wide)
    assert fewer["precision"] > 0.95 > 0.3 > fewer["recall"]
    assert noise["precision"] < 0.3
    assert fewer["coverage"] < 0.3
    assert noise["density"] < 0.3


def test_memorised_tells_copies_from_new_draws() -> None:
    generator = np.random.default_rng(0)
    training, new = generator.normal(size=(500, 6)), generator.normal(size=(400, 6))
    assert memorised(training, training[:100]) == 1
    assert memorised(training, training[:100] + 1e-4) == 1
    assert memorised(training, new) < 0.05
    half = np.concatenate([training[:200], new[:200]])
    assert memorised(training, half) == pytest.approx(0.5, abs=0.05)


def test_large_features_are_brought_to_the_size_that_the_kernel_is_made_for() -> None:
    """A classifier's: x.x / F of 400, where the cube of a few rows decides and the sign is chance."""
    generator = np.random.default_rng(0)
    real = generator.normal(size=(300, 8)) + 20
    other = generator.normal(size=(300, 8)) * 1.5 + 20
    scale = unit_scale(real)
    assert scale == pytest.approx(1 / np.sqrt((real**2).mean()))
    assert ((real * scale) ** 2).sum(1).mean() / 8 == pytest.approx(1)
    assert unit_scale(np.zeros((3, 8))) == 1
    large, large_error = kernel_distance(
        1000 * other * unit_scale(1000 * real), 1000 * real * unit_scale(1000 * real)
    )
    small, small_error = kernel_distance(other * scale, real * scale)
    assert (large, large_error) == pytest.approx((small, small_error), rel=1e-6), (
        "the unit of features is no matter"
    )
