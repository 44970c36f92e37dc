"""Learn not only the teacher's output but what it computes on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.training.pairs import find_pairs, watched
from leangan.training.student import Student

KINDS = ("kernels", "adapters")


class FeatureMatch(nn.Module):
    """Compares feature maps of a student with those of its teacher, in pairs that tracing found.

    "kernels" compares which places look alike to each, with nothing to train: kernel alignment
    (Jin et al. 2021, CAT). "adapters" compares the maps themselves through 1x1 convolutions that
    are trained along (Li et al. 2020, GAN Compression).
    """

    def __init__(
        self,
        teacher: Generator,
        student: Student,
        inputs: tuple[Tensor, ...],
        *,
        kind: str = "kernels",
        weight: float = 1.0,
        most: int = 4,
    ) -> None:
        """Find the pairs; from now on the student puts its feature maps out as well.

        Args:
            teacher: is run in PyTorch at every step.
            student: its graph is changed to put out more.
            inputs: that both take, to trace by.
            kind: one of `KINDS`.
            weight: of the mean over pairs.
            most: pairs at most.

        Raises:
            UsageError: there is no such kind, or no pair.
        """
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"Features are matched by {' or '.join(KINDS)}, not by {kind!r}.")
        graph = teacher.module()
        self.pairs = find_pairs(graph, student.graph, inputs, most)
        if not self.pairs:
            raise UsageError(
                f"No feature maps of {teacher.name} and its student lie at the same places: train "
                "by the output alone, without features."
            )
        watched(student.graph, [p.student for p in self.pairs])
        self.teacher = watched(graph, [p.teacher for p in self.pairs])
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)
        self.weight = weight
        self.adapters = nn.ModuleList(
            nn.Conv2d(p.student_channels, p.teacher_channels, 1) for p in self.pairs
        ) if kind == "adapters" else None  # fmt: skip

    def forward(self, features: Sequence[Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """The mean over pairs, times the weight.

        Args:
            features: the student's outputs; those of the pairs are the last ones.
            inputs: of the batch.
        """
        with torch.no_grad():
            theirs = self.teacher(*inputs)[-len(self.pairs) :]
        ours = features[-len(self.pairs) :]
        if self.adapters is None:
            parts = [1 - alignment(a.float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
        else:
            parts = [
                F.mse_loss(adapter(_flat(a)).float(), _flat(b).float())
                / b.float().square().mean().clamp_min(1e-8)
                for adapter, a, b in zip(self.adapters, ours, theirs, strict=True)
            ]
        return self.weight * torch.stack(parts).mean()


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """How alike two sets of features see the same places: |B A^T| / sqrt(|A A^T| |B B^T|).

    Cortes et al. 2012, with Frobenius norms; computed by channels, which are fewer than places.

    Args:
        a: (N, C, ...) of any channels.
        b: (N, D, ...) at the same places.

    Returns:
        0 to 1; 1 where the maps differ by a rotation and a factor only.
    """
    x, y = (t.flatten(2).transpose(0, 1).flatten(1) for t in (a, b))
    x, y = (t / t.norm().clamp_min(1e-8) for t in (x, y))
    cross, own, other = ((p @ q.T).square().sum() for p, q in ((y, x), (x, x), (y, y)))
    return cross / (own * other).sqrt().clamp_min(1e-12)


def _flat(x: Tensor) -> Tensor:
    """(N, C, places, 1), so that one kind of adapter serves sound and pictures."""
    return x.flatten(2).unsqueeze(3)
