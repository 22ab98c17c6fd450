"""Nearest-neighbour statistics of features of generated images: fidelity, variety and memorisation.

The ball around an image reaches to its k-th nearest neighbour in its own set. Precision is the share of
generated images within the ball of a real one, recall the share of real images within the ball of a generated
one (Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", k = 3).
Density counts the real balls that a generated image lies in, divided by k; coverage is the share of real
balls with a generated image in them (Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for
Generative Models", k = 5).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from evals.frechet import Features, Matrix

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5
NEAR = 0.01
"""Share of training images that count as very close to another one."""
ROWS = 512
"""Rows of the distance matrix that are in memory at once."""
SMALLEST_SET = DENSITY_NEIGHBOURS + 1
"""Images that every set needs for its balls."""


def precision_recall(real: Features, generated: Features) -> dict[str, float]:
    """precision, recall, density and coverage; each set has at least SMALLEST_SET rows."""
    radii_real = _reach(real, (PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS))
    radii_generated = _reach(generated, (PRECISION_NEIGHBOURS,))[:, 0]
    precise = density = 0
    recalled = np.zeros(len(real), dtype=bool)
    covered = np.zeros(len(real), dtype=bool)
    for start, distances in _rows(generated, real):
        stop = start + len(distances)
        precise += int((distances <= radii_real[:, 0]).any(1).sum())
        within = distances <= radii_real[:, 1]
        density += int(within.sum())
        covered |= within.any(0)
        recalled |= (distances <= radii_generated[start:stop, None]).any(0)
    return {
        "precision": precise / len(generated),
        "recall": float(recalled.mean()),
        "density": density / (DENSITY_NEIGHBOURS * len(generated)),
        "coverage": float(covered.mean()),
    }


def memorised(training: Features, generated: Features) -> float:
    """The share of generated images that are suspiciously close to a training image.

    That is, closer than all but NEAR of the training images are to their nearest other one. A generator that
    has learnt the distribution gives about NEAR, one that copies its training images gives 1.
    """
    usual = _reach(training, (1,))[:, 0]
    limit = float(np.quantile(usual, NEAR))
    near = sum(int((distances.min(1) <= limit).sum()) for _, distances in _rows(generated, training))
    return near / len(generated)


def _reach(features: Features, neighbours: tuple[int, ...]) -> Matrix:
    """Squared distance from each row to its k-th nearest other row, for each k: [N, len(neighbours)]."""
    reach = np.empty((len(features), len(neighbours)))
    for start, distances in _rows(features, features):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # an image is not its own neighbour
        nearest = np.partition(distances, [k - 1 for k in neighbours], axis=1)
        reach[start : start + len(distances)] = nearest[:, [k - 1 for k in neighbours]]
    return reach


def _rows(a: Features, b: Features) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(first row, squared Euclidean distances of a few rows of `a` to all of `b`), block by block."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    squares = (right**2).sum(1)
    for start in range(0, len(left), ROWS):
        part = left[start : start + ROWS]
        distances = (part**2).sum(1)[:, None] + squares - 2 * (part @ right.T)
        yield start, np.clip(distances, 0, None)
