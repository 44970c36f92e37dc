"""Networks that judge what a generator makes while it is trained."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn.utils.parametrizations import spectral_norm

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.operators import aten, is_call, read_convolution
from leangan.training.pairs import watched
from leangan.training.student import Student


class SpectralDiscriminator(nn.Module):
    """Picture (N, channels, H, W) to one score: SNGAN's idea of a DCGAN discriminator.

    Miyato et al. 2018: spectral normalization keeps its slope bounded, so that it cannot run away
    from the generator.

    Args:
        channels: of the picture.
        side: of the picture, in pixels.
        width: channels of the first layer; each further one has twice as many, 8 times at most.
    """

    def __init__(self, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        wide = width
        before = channels
        while side > 4:
            layers += [spectral_norm(nn.Conv2d(before, wide, 4, 2, 1)), nn.LeakyReLU(0.2)]
            before, wide, side = wide, min(2 * wide, 8 * width), side // 2
        layers += [nn.Flatten(), spectral_norm(nn.Linear(before * side * side, 1))]
        self.layers = nn.Sequential(*layers)

    def forward(self, picture: Tensor) -> Tensor:
        """Scores (N, 1), higher for what looks real."""
        scores: Tensor = self.layers(picture)
        return scores


class GraphDiscriminator(nn.Module):
    """A discriminator that was trained before, from its own file: raw scores, trainable.

    A sigmoid at its end goes: the losses want scores, not probabilities.
    """

    def __init__(self, discriminator: Generator, generator: Generator) -> None:
        """Check that it can judge what `generator` puts out.

        Args:
            discriminator: puts out scores; each output counts as a discriminator of its own.
            generator: at the sizes that will be trained at, which are its typical ones.

        Raises:
            UsageError: it takes something else, or several things.
        """
        super().__init__()
        port, made = discriminator.signature.inputs[0], generator.signature.outputs[0]
        sizes = zip(port.shape[1:], made.typical[1:], strict=False)
        fits = len(port.shape) == len(made.shape) and all(a in (None, b) for a, b in sizes)
        if len(discriminator.signature.inputs) != 1 or not fits:
            raise UsageError(
                f"{discriminator.name} takes {port.name!r} of shape {port.shape}, and "
                f"{generator.name} would be trained at {made.typical}: it cannot judge that."
            )
        self.network = Student(discriminator)
        graph = self.network.graph.graph
        for node in list(graph.nodes):
            if is_call(node, aten.sigmoid) and all(u.op == "output" for u in node.users):
                node.replace_all_uses_with(node.all_input_nodes[0])
        graph.eliminate_dead_code()
        self.outputs = len(discriminator.signature.outputs)
        watched(self.network.graph, _inner_convolutions(graph))

    def forward(self, made: Tensor) -> tuple[Tensor, ...]:
        """Scores of any shape, higher for what looks real."""
        return self.network(made)[: self.outputs]

    def look(self, made: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The scores, and what the convolutions put out, but for the last ones."""
        found = self.network(made)
        return found[: self.outputs], list(found[self.outputs :])


def _inner_convolutions(graph: Graph) -> list[str]:
    """The convolutions that layers with weights follow: the others put out the scores."""
    inner: list[str] = []
    leads: set[Node] = set()
    for node in reversed(graph.nodes):
        weighted = read_convolution(node) is not None or is_call(node, aten.linear)
        if node in leads and read_convolution(node):
            inner.insert(0, node.name)
        if weighted or node in leads:
            leads.update(node.all_input_nodes)
    return inner
