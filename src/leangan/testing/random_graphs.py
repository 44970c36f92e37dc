"""Random networks of all the operators that GANs are made of, as a Hypothesis strategy.

A network is data: a start, a few blocks and an end, each a name and some numbers that the block
reads as it likes. So every example can be printed, shrunk and built again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.channels import Coupling
from leangan.testing.patterns.base import settle
from leangan.testing.random_blocks import BLOCKS, Features

STYLE = 5
"""Length of the style vector that every network takes beside its start."""
STARTS = ("image", "linear", "transposed", "constant")
ENDS = ("conv", "shuffle", "skip", "score", "two")


@dataclass(frozen=True)
class Block:
    """One block of a network."""

    kind: str
    """A key of `BLOCKS`."""
    width: int
    """About how many channels it puts out."""
    choice: int
    """Which variant it is."""


@dataclass(frozen=True)
class Network:
    """A network as data."""

    start: str
    blocks: tuple[Block, ...]
    end: str
    seed: int
    """Of its weights."""


@st.composite
def networks(draw: st.DrawFn, least: int = 2, most: int = 7) -> Network:
    """Networks of `least` to `most` blocks."""
    block = st.builds(
        Block, st.sampled_from(sorted(BLOCKS)), st.integers(2, 12), st.integers(0, 23)
    )
    return Network(
        draw(st.sampled_from(STARTS)),
        tuple(draw(st.lists(block, min_size=least, max_size=most))),
        draw(st.sampled_from(ENDS)),
        draw(st.integers(0, 3)),
    )


class RandomNet(nn.Module):
    """The network that a description stands for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        first = network.blocks[0].width + 2
        at = Features(first, 0, STYLE)
        self.start: nn.Module
        if network.start == "image":
            self.start = nn.Conv2d(3, first, 3, padding=1)
        elif network.start == "linear":
            self.start = nn.Linear(6, first * 16)
        elif network.start == "transposed":
            self.start = nn.ConvTranspose2d(6, first, 4)
        else:
            self.start = nn.Identity()
            self.constant = nn.Parameter(torch.randn(1, first, 4, 4))
        self.blocks = nn.ModuleList()
        for block in network.blocks:
            made = BLOCKS[block.kind](at, block.width, block.choice)
            if made is not None:
                self.blocks.append(made)
                at = made.after
        self.channels = first
        outputs = 12 if network.end == "shuffle" else 3
        self.end: nn.Module
        if network.end == "score":
            self.end = nn.Linear(at.channels, 1)
        else:
            self.end = nn.Conv2d(at.channels, outputs, 3, padding=1)
        if network.end == "two":
            self.other = nn.Conv2d(at.channels, 2, 1)

    def forward(self, start: Tensor, style: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, 3, 8, 8) or (N, 6), (N, 5) -> a picture, a score, or two pictures."""
        kind, end = self.network.start, self.network.end
        if kind == "linear":
            x = self.start(start).view(-1, self.channels, 4, 4)
        elif kind == "transposed":
            x = self.start(start[:, :, None, None])
        elif kind == "constant":
            x = self.constant.expand(start.shape[0], -1, -1, -1) * start[:, :1, None, None]
        else:
            x = self.start(start)
        x = F.leaky_relu(x, 0.2)
        for block in self.blocks:
            x = block(x, style)
        if end == "score":
            return self.end(x.mean(dim=(2, 3)))
        y = self.end(x)
        if end == "shuffle":
            return F.pixel_shuffle(y, 2)
        if end == "two":
            return torch.tanh(y), self.other(x)
        if end == "skip" and kind == "image" and y.shape[2:] == start.shape[2:]:
            return y + start
        return torch.tanh(y)


def build(network: Network) -> RandomNet:
    """The module, in eval mode, with random weights and statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(network.seed)
        module = RandomNet(network)
        settle(module)
    return module.eval()


def generator_of(network: Network, *, free: bool = False) -> Generator:
    """The network as a generator, not normalized: norms and computed weights stay in the graph.

    Args:
        network: what to build.
        free: whether the picture's size is free too, which takes the export longer.
    """
    picture = network.start == "image"
    size = None if free else 8
    start = (
        Port("start", "image", "NCHW", (None, 3, size, size), (1, 3, 8, 8), None, (1, 1, 4, 4))
        if picture
        else Port("start", "latent", "NC", (None, 6), (1, 6))
    )
    style = Port("style", "latent", "NZ", (None, STYLE), (1, STYLE))
    module = build(network)
    axes = [[0, 2, 3] if free and picture else [0], [0]]
    shape = (2, 3, 16, 24) if free else (2, 3, 8, 8)
    examples = [torch.randn(shape if picture else (2, 6)), torch.randn(2, STYLE)]
    program = capture(module, examples, axes)
    outputs = tuple(
        Port(str(o), None, "N" + "abcd"[: len(node.meta["val"].shape) - 1],
             (None,) * len(node.meta["val"].shape), (1,) * len(node.meta["val"].shape))
        for o in program.graph_signature.user_outputs
        for node in program.graph.nodes
        if node.name == o
    )  # fmt: skip
    return Generator(program, Signature((start, style), outputs), name="random")


def inputs_of(network: Network, batch: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random inputs: `size` is that of the picture, where there is one."""
    rng = torch.Generator().manual_seed(seed)
    shape = (batch, 3, size, size + 4 * (size > 8)) if network.start == "image" else (batch, 6)
    return torch.randn(shape, generator=rng), torch.randn(batch, STYLE, generator=rng)


def random_keep(coupling: Coupling, seed: int) -> dict[str, list[int]]:
    """Random channels of each group, at least one; some groups stay whole."""
    rng = random.Random(seed)
    keep = {}
    for group in coupling.groups:
        if rng.random() < 0.1:
            continue
        count = max(1, round(group.width * rng.uniform(0.0, 0.9)))
        keep[group.name] = sorted(rng.sample(range(group.width), count))
    return keep
