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
from leangan.techniques.columns import round_columns, to_steps
from leangan.techniques.layer_code import Calibration
from leangan.techniques.round_layer import Choice, fit_layers
from leangan.techniques.round_problem import Problem
from leangan.techniques.round_walk import QuantizedWalk


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
    """Codes of one problem, see `round_columns`."""
    codes = choice.codes.clone()
    for group, moments in enumerate(problem.fit.xx):
        if not float(moments.diagonal().mean()) > 0:  # the layer reads nothing but zeros
            continue
        weight, step, zero = (t[group].double() for t in (choice.weight, choice.step, choice.zero))
        # What makes up best for the errors of the layers before, were it not rounded.
        aim = (
            weight + torch.cholesky_solve(problem.fit.xr[group], torch.linalg.cholesky(moments)).mT
        )
        aim[weight == 0] = 0
        made = round_columns(aim, moments, to_steps(step, zero, choice.low, choice.high), 0.0)
        codes[group] = (made / step + zero).round().to(codes.dtype)
    return codes
