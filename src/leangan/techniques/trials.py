"""Try quantized layers one by one, and see what the generator's output suffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.cost import layers as cost_layers
from leangan.graph.replay import Replay, Substitute
from leangan.techniques.layer_code import LayerCode, rounded

PROBE_MACS = 0.5e12
"""What one round of trials may cost, in multiply-accumulates: five to ten seconds on two cores.
(With three times as much a CycleGAN, an SRGAN and an RRDBNet stayed within 0.3 dB.)
"""
LAYER_MACS = 1.5e12
"""The same where each layer's own noise is wanted, which mixed precisions are chosen by."""

_BEHIND = 4.0
"""So many times the least error so far is too much to be made up for on further inputs. (At 2 an
SRGAN lost 1.5 dB.)"""


class Trials:
    """A few inputs with their values at every node of the float graph."""

    def __init__(
        self, generator: Generator, module: GraphModule, probes: Sequence[tuple[Tensor, ...]]
    ) -> None:
        """Run the float graph on `probes`; `module` is the generator's graph."""
        self.replays = [Replay(module, inputs) for inputs in probes]
        self._macs = sum(layer.macs for layer in cost_layers(generator, probes[0]))

    def values(self, node: Node) -> list[Tensor]:
        """What a node of the float graph puts out, per probe."""
        return [replay.value(node) for replay in self.replays]

    def best(
        self,
        options: Mapping[Node, Sequence[LayerCode]],
        tick: Callable[[int], None] | None = None,
        *,
        budget: float = PROBE_MACS,
    ) -> dict[Node, LayerCode]:
        """Each layer's option that the output suffers least from, with what it suffers.

        Options of layers with the same source are taken together, first with first and so on.
        Where trying layer by layer would take too long, neighbours are tried together and share
        the noise evenly.

        Args:
            options: by layer, in the order of computation.
            tick: told the number of layers done.
            budget: multiply-accumulates that all of it may cost.
        """
        tries = sum(len(choices) for choices in options.values())
        # From a layer onwards is half of the network on average.
        cost = self._macs / 2 * len(self.replays) * tries
        found: dict[Node, LayerCode] = {}
        for group in _groups(options, math.ceil(cost / budget)):
            trials = [
                {n: rounded(_at(options[n], pick)) for n in group}
                for pick in range(max(len(options[n]) for n in group))
            ]
            noise, pick = self._least(trials, group[0])
            for n in group:
                found[n] = replace(_at(options[n], pick), noise=noise / len(group))
            if tick:
                tick(len(found))
        return found

    def _least(self, trials: Sequence[Mapping[Node, Substitute]], first: Node) -> tuple[float, int]:
        """The least mean squared error, and whose it is.

        Clipping hurts most where the values that the layer reads reach furthest, so that input
        comes first. Who is far behind on the inputs so far is not tried on the others.
        """
        source = first.args[0]
        assert isinstance(source, Node)
        reaches = [float(value.abs().max()) for value in self.values(source)]
        order = sorted(zip(reaches, self.replays, strict=True), key=lambda r: r[0], reverse=True)
        errors = dict.fromkeys(range(len(trials)), 0.0)
        for _, replay in order:
            for pick in errors:
                changed = replay.changed(trials[pick])
                errors[pick] += float((changed - replay.output).square().mean())
            least = min(errors.values())
            errors = {pick: error for pick, error in errors.items() if error <= _BEHIND * least}
        error, pick = min((error, pick) for pick, error in errors.items())
        return error / len(order), pick


def _at(options: Sequence[LayerCode], pick: int) -> LayerCode:
    return options[min(pick, len(options) - 1)]


def _groups(options: Mapping[Node, Sequence[LayerCode]], size: int) -> list[list[Node]]:
    """Neighbours in groups of at least `size`, those that share a source always together."""
    by_source: dict[str, list[Node]] = {}
    for node, choices in options.items():
        by_source.setdefault(choices[0].source, []).append(node)
    groups: list[list[Node]] = []
    for nodes in by_source.values():
        if groups and len(groups[-1]) < size:
            groups[-1] += nodes
        else:
            groups.append(list(nodes))
    return groups
