"""Make weights prunable while they are trained, or prune them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leangan.techniques.prune_weights import cubic_sparsity
from leangan.training.forms import Masked
from leangan.training.student import Student

_TURNS = 100
"""How often masks are drawn anew over a run."""


def l1_penalty(student: Student) -> Tensor:
    """The sum of absolute weights of convolutions and linear layers: `sum |w|`.

    Added to the loss it drives weights towards zero (Han et al. 2015, section 3.1).
    """
    weights = [p for p in student.parameters() if p.requires_grad and p.dim() > 1]
    return torch.stack([w.abs().sum() for w in weights]).sum()


@dataclass
class GradualPruning:
    """More and more of the smallest weights become zero while the others learn to do without.

    Zhu and Gupta: To prune, or not to prune (arXiv:1710.01878). Masks of a `Student` made with
    `prunable=True` are drawn anew at times; a weight that was cut does not come back.
    """

    amount: float
    """Share of zeros at the end."""
    until: float = 0.6
    """Share of the run after which nothing more is cut, and the rest recovers."""
    initial: float = 0.0
    turn: int = 0

    @torch.no_grad()
    def after_step(self, student: Student, share: float) -> None:
        """Cut what is due; `share` of the run is over."""
        turn = int(min(share / self.until, 1.0) * _TURNS)
        if turn <= self.turn:
            return
        self.turn = turn
        zeros = cubic_sparsity(turn, 0, _TURNS, self.initial, self.amount)
        cut([form for form in student.forms if isinstance(form, Masked)], zeros)


def cut(forms: Sequence[Masked], amount: float) -> None:
    """Mask a share of all weights, the smallest ones; those that are masked already count."""
    sizes = torch.cat([(form.weight * form.mask).abs().flatten() for form in forms])
    gone = torch.ones_like(sizes, dtype=torch.bool)
    gone[sizes.argsort(stable=True)[: round(amount * len(sizes))]] = False
    parts = gone.split([form.mask.numel() for form in forms])
    for form, part in zip(forms, parts, strict=True):
        form.mask &= part.reshape(form.mask.shape)
