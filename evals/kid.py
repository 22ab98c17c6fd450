"""The kernel distance between two sets of features (Binkowski et al. 2018, "Demystifying MMD GANs").

The squared maximum mean discrepancy under the kernel (x.y / F + 1)^3, by its unbiased estimator (Gretton et
al. 2012, equation 3). It is computed once over all pairs, where others average it over random subsets: the
expectation is the same, and there is no draw to depend on. Unbiased, it may fall below 0 for equal sets.
"""

import numpy as np

from evals.frechet import Features

ROWS = 1024
"""Rows of the kernel matrix that are in memory at once."""


def kernel_distance(a: Features, b: Features) -> float:
    """The unbiased estimate; both sets have at least two rows."""
    return _mean_between(a, a) + _mean_between(b, b) - 2 * _mean_between(a, b)


def _mean_between(a: Features, b: Features) -> float:
    """Mean kernel over pairs of rows; of one set with itself, over pairs of different rows."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    total = 0.0
    for start in range(0, len(left), ROWS):
        total += float(((left[start : start + ROWS] @ right.T / left.shape[1] + 1) ** 3).sum())
    if a is not b:
        return total / (len(left) * len(right))
    own = float((((left**2).sum(1) / left.shape[1] + 1) ** 3).sum())
    return (total - own) / (len(left) * (len(left) - 1))
