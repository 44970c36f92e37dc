"""Distance between two sets of pictures, by what a network sees in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def frechet(a: Rows, b: Rows) -> float:
    """Frechet distance of the Gaussians that fit two sets of features (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the root by the eigenvalues of a symmetric
    product, which are never negative: no imaginary part can appear.

    Args:
        a: (samples, features).
        b: (other samples, the same features).

    Returns:
        0 for equal statistics. With fewer samples than features it is far too high: see `enough`.
    """
    mean = a.mean(0) - b.mean(0)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second @ root).clip(0)
    trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(product).sum()
    return float(mean @ mean + max(trace, 0.0))


def enough(samples: int, features: int) -> bool:
    """Whether a Frechet distance of so many samples says anything: twice as many as features."""
    return samples >= 2 * features
