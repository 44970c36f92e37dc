"""Networks that judge what a generator makes while it is trained."""

from __future__ import annotations

from torch import Tensor, nn
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

        Raises:
            UsageError: it takes something else, or several things.
        """
        super().__init__()
        port, made = discriminator.signature.inputs[0], generator.signature.outputs[0]
        sizes = zip(port.shape[1:], made.shape[1:], strict=False)
        fits = len(port.shape) == len(made.shape) and all(
            a is None or b is None or a == b for a, b in sizes
        )
        if len(discriminator.signature.inputs) != 1 or not fits:
            raise UsageError(
                f"{discriminator.name} takes {port.name!r} of shape {port.shape}, and "
                f"{generator.name} puts out {made.shape}: it cannot judge that."
            )
        self.network = Student(discriminator)
        graph = self.network.graph.graph
        for node in list(graph.nodes):
            if is_call(node, aten.sigmoid) and all(u.op == "output" for u in node.users):
                node.replace_all_uses_with(node.all_input_nodes[0])
        graph.eliminate_dead_code()
        seen = [node.name for node in graph.nodes if read_convolution(node)]
        watched(self.network.graph, seen[:-1])

    def forward(self, made: Tensor) -> Tensor:
        """Scores of any shape, higher for what looks real."""
        return self.network(made)[0]

    def look(self, made: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores, and what the convolutions put out, but for the last one."""
        scores, *maps = self.network(made)
        return scores, maps
