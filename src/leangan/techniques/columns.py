"""Round the columns of a matrix one after the other; later ones make up for earlier ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from leangan.errors import LeanganError

_BLOCK = 32
"""Columns whose errors reach the rest in one matrix product."""

Snap = Callable[[int, np.ndarray], np.ndarray]
"""snap(column, values): what the values of a column, float64 (rows,), are rounded to."""


def round_columns(weight: Tensor, moments: Tensor, snap: Snap, damping: float) -> Tensor:
    """A matrix rounded so that the products of its rows with typical inputs keep.

    With H = U D U^T, U upper triangular with a diagonal of ones, the squared error of the product
    is the sum over columns k of D_k (e_k + sum over j < k of e_j U_jk)^2, where e is what rounding
    took off. So each column is rounded after that sum was added (GPTQ, Frantar et al. 2023, in
    the form of QuIP, Chee et al. 2023, which needs one factorization). Strong inputs come first:
    there are more left then to make up for them.

    Args:
        weight: float64 (rows, columns). Its zeros stay.
        moments: float (columns, columns), the second moments H of the inputs.
        snap: rounds.
        damping: the share of the mean square of the inputs that is added to each, for what the
            inputs that were seen do not show.

    Raises:
        LeanganError: the moments are not finite.
    """
    strength = moments.diagonal()
    mean = float(strength.mean())
    order = strength.argsort(descending=True, stable=True)
    if mean == 0:  # the layer reads nothing but zeros
        upper = torch.eye(len(order), dtype=torch.float64)
    else:
        turned = order.flip(0)
        upper = _lower(moments[turned][:, turned], damping * mean).flip(0, 1).double()
        upper /= upper.diagonal().clone()
    start = weight[:, order].T.contiguous()
    wanted, error = start.clone(), torch.zeros_like(start)
    zeros = (start == 0).numpy()
    pruned = bool(zeros.any())
    columns = order.tolist()
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        wanted[first:last] += upper[:first, first:last].T @ error[:first]
        # Single columns are too little work for PyTorch.
        left, lost, before = (t[first:last].numpy() for t in (wanted, error, start))
        within = upper[first:last, first:last].contiguous().numpy()
        for k in range(last - first):
            taken = snap(columns[first + k], left[k])
            if pruned:
                taken[zeros[first + k]] = 0.0
            np.subtract(before[k], taken, out=lost[k])
            left[k + 1 :] += within[k, k + 1 :, None] * lost[k]
            left[k] = taken
    made = torch.empty_like(weight)
    made[:, order] = wanted.T
    return made


def _lower(matrix: Tensor, added: float) -> Tensor:
    """The Cholesky factor, in double precision only where single has too little."""
    for precise in (matrix.clone(), matrix.double()):
        precise.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(precise)
        if not int(failed):
            return factor
    raise LeanganError(
        "The inputs of a layer are not finite, so that its weights cannot be fitted."
    )


def to_levels(levels: Tensor) -> Snap:
    """Each row to the nearest of its own levels: float64 (rows, up to 256), ascending."""
    rows, count = levels.shape
    flat = levels.flatten().numpy()
    middles = ((levels[:, 1:] + levels[:, :-1]) / 2).T.contiguous().numpy()
    firsts = np.arange(rows) * count

    def snap(column: int, values: np.ndarray) -> np.ndarray:
        places = np.add.reduce(middles < values, axis=0, dtype=np.uint8)
        return flat.take(firsts + places)

    return snap


def to_steps(step: Tensor, zero: Tensor, low: int, high: int) -> Snap:
    """To whole numbers of steps: (code - zero) * step, codes from `low` to `high`.

    Args:
        step: float64 (rows, columns).
        zero: float64 (rows, columns), whole numbers.
        low: the smallest code.
        high: the largest code.
    """
    steps, zeros = step.T.contiguous().numpy(), zero.T.contiguous().numpy()

    def snap(column: int, values: np.ndarray) -> np.ndarray:
        codes = np.rint(values / steps[column] + zeros[column]).clip(low, high)
        made: np.ndarray = (codes - zeros[column]) * steps[column]
        return made

    return snap
