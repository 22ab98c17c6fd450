"""The kernel distance between two sets of features (Binkowski et al. 2018, "Demystifying MMD GANs").

The squared maximum mean discrepancy under the kernel (x.y / F + 1)^3, by its unbiased estimator (Gretton et
al. 2012, equation 3). It is computed once over all pairs, where others average it over random subsets: the
expectation is the same, and the result does not depend on a draw. The estimate is unbiased, so it may be
negative for equal sets.

Its standard error is the jackknife's for U-statistics of two samples (Arvesen 1969): the estimate is repeated
without each image in turn, which the row sums of the kernel give without another pass. The spread over
subsets would describe an estimate from only as many images as a subset has.

The kernel was designed for Inception's features, whose x.x / F is below 1. Where it is in the hundreds, the
cube of the few largest features dominates; such features are scaled first (`unit_scale`).
"""

import math

import numpy as np
import numpy.typing as npt

from evals.frechet import Features

ROWS = 1024
"""Rows of the kernel matrix that are in memory at once."""

Sums = npt.NDArray[np.float64]


def kernel_distance(a: Features, b: Features) -> tuple[float, float]:
    """The unbiased estimate and its standard error; both sets have at least three rows."""
    (own_a, _), (own_b, _) = _sums(a, a), _sums(b, b)
    own_a, own_b = own_a - _with_itself(a), own_b - _with_itself(b)
    across_a, across_b = _sums(a, b)
    total_a, total_b, across = own_a.sum(), own_b.sum(), across_a.sum()
    rows_a, rows_b = len(a), len(b)
    estimate = _estimate(total_a, total_b, across, rows_a, rows_b)
    without_a = _estimate(total_a - 2 * own_a, total_b, across - across_a, rows_a - 1, rows_b)
    without_b = _estimate(total_a, total_b - 2 * own_b, across - across_b, rows_a, rows_b - 1)
    variance = sum((len(each) - 1) * float(np.var(each)) for each in (without_a, without_b))
    return float(estimate), math.sqrt(variance)


def unit_scale(features: Features) -> float:
    """The factor that gives features [N, F] a mean of x.x / F of 1; 1 where all of them are zero."""
    mean_square = float(np.square(features.astype(np.float64)).mean())
    return 1 / math.sqrt(mean_square) if mean_square else 1.0


def _estimate(own_a: Sums, own_b: Sums, across: Sums, rows_a: int, rows_b: int) -> Sums:
    """The distance from sums of the kernel over pairs of different rows within a set, and over pairs across
    the sets."""
    within = own_a / (rows_a * (rows_a - 1)) + own_b / (rows_b * (rows_b - 1))
    return within - 2 * across / (rows_a * rows_b)


def _sums(a: Features, b: Features) -> tuple[Sums, Sums]:
    """The kernel between all rows of a and of b, summed over b for each row of a, and over a for each row of
    b."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    of_a, of_b = np.empty(len(left)), np.zeros(len(right))
    for start in range(0, len(left), ROWS):
        part = slice(start, start + ROWS)
        kernel = (left[part] @ right.T / left.shape[1] + 1) ** 3
        of_a[part] = kernel.sum(1)
        of_b += kernel.sum(0)
    return of_a, of_b


def _with_itself(a: Features) -> Sums:
    """The kernel of each row with itself, shape [rows]."""
    itself: Sums = ((a.astype(np.float64) ** 2).sum(1) / a.shape[1] + 1) ** 3
    return itself
