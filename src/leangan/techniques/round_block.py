"""Round the layers of a block together, by gradient, so that the block's output keeps.

Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
with the soft rounding of AdaRound (Nagel et al. 2020): a weight lies between its code and the next
one on the other side of its float value, and is pushed to either end as the steps go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Interpreter

from leangan.techniques.round_blocks import Block
from leangan.techniques.round_walk import QuantizedLayer, QuantizedWalk

_RATE = 0.02
_FIRST = 0.1
"""How far all weights lie towards their other code at first."""
_PUSH = 0.5
"""How strongly weights are pushed to whole codes, beside an error that starts at 1."""
_FREE = 0.2
"""Share of the steps without that."""
_STRETCH, _BELOW = 1.2, 0.1
"""A sigmoid is stretched and cut, so that 0 and 1 are reached."""
_HELD = 4


@dataclass
class _Soft:
    """The weight of one layer on its way from code to code."""

    layer: QuantizedLayer
    codes: Tensor
    other: Tensor
    """What is added to a code to get the other one: -1, 0 or 1."""
    place: Tensor
    """Before the sigmoid."""
    shift: Tensor | None
    """Of the bias; learned as well."""

    @classmethod
    def of(cls, layer: QuantizedLayer) -> _Soft:
        grid = layer.code.grid
        other = (grid.positions(layer.scaled) - layer.codes).sign()
        other = (layer.codes + other).clamp(grid.low, grid.high) - layer.codes
        other[layer.scaled == 0] = 0
        start = (_FIRST + _BELOW) / _STRETCH
        place = torch.full_like(layer.codes, start).logit().requires_grad_()
        shift = layer.code.bias_shift
        return cls(
            layer,
            layer.codes,
            other,
            place,
            None if shift is None else shift.clone().requires_grad_(),
        )

    def share(self) -> Tensor:
        """How far each weight is on the way to its other code, 0 to 1."""
        return (self.place.sigmoid() * _STRETCH - _BELOW).clamp(0, 1)

    def use(self, share: Tensor) -> None:
        """Let the layer compute with the soft weight."""
        self.layer.values = self.layer.code.grid.values(self.codes + self.other * share)
        self.layer.shift = self.shift

    def settle(self) -> None:
        """Take the nearer codes."""
        codes = self.codes + self.other * (self.share().detach() >= 0.5)
        shift = None if self.shift is None else self.shift.detach().clone()
        self.layer.set(replace(self.layer.code, codes=codes, bias_shift=shift))


def fit_block(
    walk: QuantizedWalk,
    block: Block,
    kept: Mapping[str, Sequence[Tensor]],
    steps: int,
    rng: torch.Generator,
) -> None:
    """Learn the rounding of a block's layers; keep it where it is better on held samples.

    Args:
        walk: that has come to the block's last node.
        block: whose layers were fitted one by one before.
        kept: per node that the block reads, its values, one per sample.
        steps: of Adam, each on one sample.
        rng: draws the samples.
    """
    last = next(n for n in walk.changed.graph.nodes if n.name == block.nodes[-1])
    targets = walk.originals(last)
    count = len(targets)
    held = range(_HELD - 1, count, _HELD)
    fitted = [s for s in range(count) if s not in held]
    if not held:
        return
    run = _Run(walk, block, kept)

    def error(sample: int) -> Tensor:
        return (run(sample) - targets[sample]).square().mean()

    def held_error() -> float:
        return sum(float(error(s)) for s in held)

    before = held_error()
    scale = max(sum(float(error(s)) for s in fitted) / len(fitted), 1e-30)
    codes = [walk.layers[name].code for name in block.layers]
    soft = [_Soft.of(walk.layers[name]) for name in block.layers]
    shifts = [s.shift for s in soft if s.shift is not None]
    size = max(1, sum(s.place.numel() for s in soft))
    spread = max([float(s.detach().abs().mean()) for s in shifts], default=0.0)
    adam = torch.optim.Adam(
        [
            {"params": [s.place for s in soft], "lr": _RATE},
            {"params": shifts, "lr": _RATE * spread},
        ]
    )
    with torch.enable_grad():
        for step in range(steps):
            sample = fitted[int(torch.randint(len(fitted), (), generator=rng))]
            shares = [s.share() for s in soft]
            for s, share in zip(soft, shares, strict=True):
                s.use(share)
            loss = error(sample) / scale
            late = (step / steps - _FREE) / (1 - _FREE)
            if late >= 0:
                power = 20 - 18 * late
                undecided = [(1 - (2 * h - 1).abs().pow(power)).sum() for h in shares]
                loss = loss + _PUSH * torch.stack(undecided).sum() / size
            adam.zero_grad()
            loss.backward()
            adam.step()
    for s in soft:
        s.settle()
    if not held_error() < before:
        for name, code in zip(block.layers, codes, strict=True):
            walk.layers[name].set(code)
    walk.forget(last)


class _Run(Interpreter):
    """Runs a block of the changed graph on one sample's values."""

    def __init__(
        self, walk: QuantizedWalk, block: Block, kept: Mapping[str, Sequence[Tensor]]
    ) -> None:
        super().__init__(walk.changed)
        nodes = {n.name: n for n in walk.changed.graph.nodes}
        self.nodes = [nodes[name] for name in block.nodes]
        entry = () if block.entry is None else (block.entry,)
        self.read = {nodes[name]: kept[name] for name in (*entry, *block.given)}
        self.stored = {
            s: self.fetch_attr(str(s.target))
            for n in self.nodes
            for s in n.all_input_nodes
            if s.op == "get_attr"
        }

    def __call__(self, sample: int) -> Tensor:
        self.env = {**self.stored, **{node: values[sample] for node, values in self.read.items()}}
        for node in self.nodes:
            self.env[node] = self.run_node(node)
        result: Tensor = self.env[self.nodes[-1]]
        return result
