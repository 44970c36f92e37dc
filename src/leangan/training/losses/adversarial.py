"""The two sides of the game between a generator and a discriminator, on raw scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Scores = Tensor | tuple[Tensor, ...]
"""Of one discriminator, or of several that judge together."""


@dataclass(frozen=True)
class Game:
    """What each side makes smaller; scores are of any shape, higher for what looks real."""

    judge: Callable[[Tensor, Tensor], Tensor]
    """Of the discriminator, by its scores of real and of made ones."""
    maker: Callable[[Tensor], Tensor]
    """Of the generator, by the scores of what it made."""


GAMES = {
    # Lim and Ye 2017; Miyato et al. 2018.
    "hinge": Game(
        lambda real, made: F.relu(1 - real).mean() + F.relu(1 + made).mean(),
        lambda made: -made.mean(),
    ),
    # Mao et al. 2017.
    "lsgan": Game(
        lambda real, made: ((real - 1).square().mean() + made.square().mean()) / 2,
        lambda made: (made - 1).square().mean() / 2,
    ),
    # Goodfellow et al. 2014, with the generator's loss that does not vanish.
    "non-saturating": Game(
        lambda real, made: F.softplus(-real).mean() + F.softplus(made).mean(),
        lambda made: F.softplus(-made).mean(),
    ),
}


def several(scores: Scores) -> tuple[Tensor, ...]:
    """A tensor for each discriminator, also where there is one alone."""
    return scores if isinstance(scores, tuple) else (scores,)


def r1(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Mean squared norm of the scores' gradient at real ones, halved (Mescheder et al. 2018)."""
    real = real.detach().requires_grad_()
    scores = discriminator(real)
    total = torch.stack([score.sum() for score in several(scores)]).sum()
    (slope,) = torch.autograd.grad(total, real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean() / 2
