"""Round weights to even steps one input after the other; those that follow make up for errors.

Frantar et al.: GPTQ (ICLR 2023), with the output of the float network as the aim, so that errors
of the layers before are made up for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leangan.generator import Generator
from leangan.techniques.codebook.feedback import one_thread
from leangan.techniques.layer_code import Calibration
from leangan.techniques.round_layer import Choice, fit_layers
from leangan.techniques.round_problem import Problem
from leangan.techniques.round_walk import QuantizedWalk

_BLOCK = 64
"""Columns whose errors reach the rest in one matrix product."""


def round_feedback(
    generator: Generator,
    calibration: Calibration,
    data: Sequence[tuple[Tensor, ...]],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fill in codes that keep each layer's output, and biases that keep its mean.

    Args:
        generator: float.
        calibration: of its layers, as `calibrate` makes it. Codes that it has are kept where the
            new ones are no better on positions that were not fitted.
        data: calibration inputs; up to 16 are used.
        seed: of the choice of positions; the same seed gives the same codes.
        progress: called with (layers done, layers in all).

    Raises:
        UsageError: no data.
    """
    rng = torch.Generator().manual_seed(seed)
    with one_thread(), torch.no_grad():
        walk = QuantizedWalk(generator, calibration, data)
        for _ in fit_layers(walk, feed_back, rng, progress):
            pass
    return {**calibration, **walk.codes}


def feed_back(problem: Problem, choice: Choice) -> Tensor:
    """Codes of one problem: strong inputs first, since more are left then to make up for them."""
    codes = torch.empty_like(choice.codes)
    for group, moments in enumerate(problem.fit.xx):
        if not float(moments.diagonal().mean()) > 0:  # the layer reads nothing but zeros
            codes[group] = choice.codes[group]
            continue
        order = moments.diagonal().argsort(descending=True, stable=True)
        ordered = moments[order][:, order]
        lower = torch.linalg.cholesky(ordered)
        wanted = torch.cholesky_solve(problem.fit.xr[group][order], lower).mT
        inverse = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
        spread = (inverse / inverse.diagonal()[:, None]).to(choice.weight.dtype)
        step, zero, weight = (t[group][:, order] for t in (choice.step, choice.zero, choice.weight))
        left = weight + wanted.to(weight.dtype)
        left[weight == 0] = 0
        made = torch.empty_like(left)
        for first in range(0, left.shape[1], _BLOCK):
            last = min(first + _BLOCK, left.shape[1])
            errors = torch.zeros_like(left[:, first:last])
            for i in range(first, last):
                code = (left[:, i] / step[:, i] + zero[:, i]).round()
                made[:, i] = code.clamp_(choice.low, choice.high)
                made[:, i] = torch.where(weight[:, i] == 0, zero[:, i], made[:, i])
                error = left[:, i] - (made[:, i] - zero[:, i]) * step[:, i]
                left[:, i + 1 : last] -= error[:, None] * spread[i, i + 1 : last]
                errors[:, i - first] = error
            left[:, last:] -= errors @ spread[first:last, last:]
        codes[group][:, order] = made
    return codes
