"""Run a graph once, then ask what its output would be if some nodes put out something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

Substitute = Callable[[Node, tuple[object, ...]], Tensor]
"""Computes a node's value in another way, from the values of its arguments."""


class Replay:
    """One input's values at every node, from which changed outputs are computed quickly.

    Only what depends on a changed node is computed again, so asking about a late layer of a deep
    network costs little.
    """

    def __init__(self, module: GraphModule, inputs: tuple[Tensor, ...]) -> None:
        """Run `module` on `inputs` and keep all values."""
        self._interpreter = Interpreter(module, garbage_collect_values=False)
        with torch.no_grad():
            self._interpreter.run(*inputs)
        self._values = dict(self._interpreter.env)
        self._nodes = list(module.graph.nodes)
        self.output = first_tensor(self._values[self._nodes[-1]])

    def value(self, node: Node) -> Tensor:
        """What a node puts out, unchanged."""
        value = self._values[node]
        assert isinstance(value, Tensor)
        return value

    def changed(self, substitutes: Mapping[Node, Substitute]) -> Tensor:
        """The (first) output when each node in `substitutes` puts out what its function gives."""
        run = self._interpreter
        fresh: dict[Node, object] = {}
        with torch.no_grad():
            for node in self._nodes:
                if node in substitutes or any(n in fresh for n in node.all_input_nodes):
                    run.env = _Layers(fresh, self._values)
                    if node in substitutes:
                        args, _ = run.fetch_args_kwargs_from_env(node)
                        fresh[node] = substitutes[node](node, args)
                    else:
                        fresh[node] = run.run_node(node)
        return first_tensor(fresh.get(self._nodes[-1], self._values[self._nodes[-1]]))


class _Layers(dict[Node, object]):
    """Fresh values where there are any, else the recorded ones."""

    def __init__(self, fresh: dict[Node, object], recorded: dict[Node, object]) -> None:
        super().__init__()
        self.fresh, self.recorded = fresh, recorded

    def __getitem__(self, node: Node) -> object:
        return self.fresh[node] if node in self.fresh else self.recorded[node]

    def __contains__(self, node: object) -> bool:
        return node in self.fresh or node in self.recorded


def first_tensor(value: object) -> Tensor:
    """The value itself, or the first of the tuple or list that a graph puts out."""
    while isinstance(value, tuple | list):
        value = value[0]
    assert isinstance(value, Tensor)
    return value
