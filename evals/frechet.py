"""The Frechet distance between two sets of features, each modelled as a Gaussian.

d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, "GANs Trained by
a Two Time-Scale Update Rule", section 4). It is called FID only when the features are Inception's.
"""

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
"""[N, F], one row per image."""
Matrix = npt.NDArray[np.float64]


def moments(features: Features) -> tuple[Matrix, Matrix]:
    """Mean [F] and unbiased covariance [F, F] in float64; N is at least 2."""
    exact = features.astype(np.float64)
    mean = exact.mean(0)
    centred = exact - mean
    return mean, centred.T @ centred / (len(exact) - 1)


def frechet_distance(a: Features, b: Features) -> float:
    """The squared Frechet distance between Gaussians with the moments of two sets of features.

    tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is
    symmetric: two `eigh` instead of a general matrix square root.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = moments(a), moments(b)
    values, vectors = np.linalg.eigh(covariance_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariance_b @ root)
    difference = mean_a - mean_b
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    distance = difference @ difference + traces - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(distance, 0.0))  # rounding may make the distance of equal sets negative
