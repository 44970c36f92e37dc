"""Make weights prunable while they are trained, or prune them on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F

from leangan.generator import Generator
from leangan.graph.channels import Group, couple
from leangan.graph.operators import aten, is_call
from leangan.graph.weights import stored_weights
from leangan.techniques.importance.base import places_of
from leangan.techniques.prune_weights import cubic_sparsity
from leangan.training.forms import Masked
from leangan.training.settings import TrainSettings
from leangan.training.student import Student

_TURNS = 100
"""How often masks are drawn anew over a run."""
_IDLE = 0.01
"""Of the usual size of its fellows: what is smaller can go."""


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

    def state(self) -> dict[str, Any]:
        """How far it is."""
        return {"turn": self.turn}

    def restore(self, state: dict[str, Any]) -> None:
        """Where it was."""
        self.turn = state["turn"]


class ChannelShrink:
    """Makes whole channels smaller at each step, so that those nobody needs become zero.

    GAN Slimming's proximal steps (Wang et al. 2020), for any graph: of each channel that could be
    removed, the kernels that compute it, its bias and its norm's scale are one vector v, and
    v becomes v * max(0, 1 - t / |v|). Where there is nothing but a norm's scale this is the soft
    threshold of the paper.
    """

    def __init__(self, generator: Generator, strength: float, settings: TrainSettings) -> None:
        """Begin with the channels as they are.

        Args:
            generator: what is trained, before any step.
            strength: t is this times the learning rate times the usual |v| of the group.
            settings: of the run; `lr` is settled.
        """
        self._strength, self._settings = strength, settings
        module = generator.module()
        tensors = dict(module.named_parameters())
        self._groups = []
        for channels in _all_channels(generator, module):
            self._groups.append((channels, float(channels.sizes(tensors).mean())))

    @torch.no_grad()
    def after_step(self, student: Student, share: float) -> None:
        """One proximal step; `share` of the run is over."""
        tensors = dict(student.graph.named_parameters())
        step = self._strength * self._settings.rate(share)
        for channels, usual in self._groups:
            left = 1 - step * usual / channels.sizes(tensors).clamp_min(1e-12)
            channels.scale(tensors, left.clamp(min=0))

    def state(self) -> dict[str, Any]:
        """Nothing: it depends on the start alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing, likewise."""


class _Channels:
    """All of a group's channels that their own layers hold: kernels, biases, scales."""

    def __init__(self, group: Group, tensors: Mapping[str, Tensor]) -> None:
        self._members = [
            (m.path, m.axis, places_of(m.positions, tensors[m.path].shape[m.axis]))
            for m in group.members
            if m.role != "in" and m.path in tensors
        ]
        self._width = group.width

    def sizes(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(width,): the length of each channel's vector."""
        total = torch.zeros(self._width)
        for path, axis, places in self._members:
            rows = tensors[path].detach().float().movedim(axis, 0)
            squares = rows.reshape(len(rows), -1).square().sum(1).cpu()
            total += F.pad(squares, (0, 1))[places].sum(1)
        return total.sqrt()

    def scale(self, tensors: Mapping[str, Tensor], by: Tensor) -> None:
        """Multiply each channel's vector in place."""
        for path, axis, places in self._members:
            tensor = tensors[path].data
            factors = torch.ones(tensor.shape[axis] + 1)
            factors[places] = by[:, None]
            shape = [-1 if a == axis else 1 for a in range(tensor.dim())]
            tensor.mul_(factors[:-1].reshape(shape).to(tensor))


def _all_channels(generator: Generator, module: GraphModule) -> list[_Channels]:
    # Statistics are no parameters, and a slope does not say how large a channel is.
    slopes = {
        str(slope.target)
        for node in module.graph.nodes
        if is_call(node, aten.prelu)
        for slope in node.all_input_nodes[1:]
    }
    tensors = {name: p for name, p in module.named_parameters() if name not in slopes}
    return [_Channels(group, tensors) for group in couple(generator).groups]


def idle_shares(generator: Generator) -> dict[str, float]:
    """What could be removed at hardly any loss, as shares of all there is.

    Returns:
        "weights" smaller than a hundredth of their layer's root mean square; "channels" whose
        kernels, bias and scale together are smaller than a hundredth of their group's mean.
    """
    module = generator.module()
    tensors = dict(module.named_parameters())
    weights = [w.tensor.float() for w in stored_weights(generator, module)]
    small = [
        (w.abs() < _IDLE * w.square().mean().sqrt().clamp_min(1e-30)).flatten() for w in weights
    ]
    sizes = [channels.sizes(tensors) for channels in _all_channels(generator, module)]
    idle = [s < _IDLE * s.mean().clamp_min(1e-30) for s in sizes]
    return {name: _share(masks) for name, masks in (("weights", small), ("channels", idle))}


def _share(masks: Sequence[Tensor]) -> float:
    return float(torch.cat(list(masks)).float().mean()) if masks else 0.0


def cut(forms: Sequence[Masked], amount: float) -> None:
    """Mask a share of all weights, the smallest ones; those that are masked already count."""
    sizes = torch.cat([(form.weight * form.mask).abs().flatten() for form in forms])
    gone = torch.ones_like(sizes, dtype=torch.bool)
    gone[sizes.argsort(stable=True)[: round(amount * len(sizes))]] = False
    parts = gone.split([form.mask.numel() for form in forms])
    for form, part in zip(forms, parts, strict=True):
        form.mask &= part.reshape(form.mask.shape)
