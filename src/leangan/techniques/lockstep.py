"""Run an original graph and a changed copy side by side, node by node, over all samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node

from leangan.errors import LeanganError
from leangan.graph.channels import Sliced
from leangan.graph.rewrite import tensor_of

_MEMORY = 3 * 2**30
"""Most bytes of values that are held at one time."""


class Lockstep:
    """Values of both graphs for all samples, as far as they are still needed.

    The original's are restricted to what the changed graph kept, so that both have one shape.
    """

    def __init__(
        self, original: GraphModule, sliced: Sliced, samples: Sequence[tuple[Tensor, ...]]
    ) -> None:
        """Prepare a walk.

        Args:
            original: the graph before the change.
            sliced: the changed one, its nodes of the same names in the same order.
            samples: inputs; as many are used, from the first, as memory allows.

        Raises:
            LeanganError: the nodes differ.
        """
        self.kept = sliced.kept
        self.original, self.changed = original, sliced.module
        self._runs = {m: Interpreter(m) for m in (original, sliced.module)}
        self._nodes = {m: _by_name(m) for m in self._runs}
        self._order = list(self._nodes[original])
        if self._order != list(self._nodes[sliced.module]):
            raise LeanganError(
                "The changed graph has other nodes than the original, so that its weights cannot "
                "be refitted. Please report this."
            )
        self._last = self._last_uses()
        self.samples = self._within_memory(samples)
        self._values: dict[GraphModule, list[dict[str, Any]]] = {
            m: [{} for _ in self.samples] for m in self._runs
        }
        self.differs: set[str] = set()
        """Names of nodes that put out something else than in the original."""

    def steps(self) -> Iterator[Node]:
        """The nodes of the changed graph, in order of computation.

        When a node comes, the original's values of it are there; the changed graph's are computed
        afterwards, so that its weights can be changed before that. `values` computes them at once.
        """
        places = [n for n in self._order if self._nodes[self.original][n].op == "placeholder"]
        for i, name in enumerate(self._order):
            before, after = self._nodes[self.original][name], self._nodes[self.changed][name]
            if before.op == "output":
                return
            for s, inputs in enumerate(self.samples):
                given = before.op == "placeholder"
                self._values[self.original][s][name] = (
                    inputs[places.index(name)] if given else self._compute(self.original, before, s)
                )
            if self._differs(before, after):
                self.differs.add(name)
            else:
                for old, new in zip(*self._values.values(), strict=True):
                    new[name] = old[name]
            yield after
            self.values(after)
            for dead in self._last.get(i, ()):
                for values in (*self._values[self.original], *self._values[self.changed]):
                    values.pop(dead, None)

    def node(self, name: str) -> Node:
        """The original's node of that name."""
        return self._nodes[self.original][name]

    def known(self, node: Node) -> bool:
        """Whether the changed graph's values of a node are there."""
        return node.name in self._values[self.changed][0]

    def originals(self, node: Node, whole_axis: int | None = None) -> list[Tensor]:
        """The original's values of a node, one per sample.

        Args:
            node: of either graph.
            whole_axis: the axis that is not restricted to what was kept.
        """
        return [self._restrict(v[node.name], node, whole_axis) for v in self._values[self.original]]

    def values(self, node: Node) -> list[Tensor]:
        """The changed graph's values of a node, one per sample."""
        found = self._values[self.changed]
        for s, values in enumerate(found):
            if node.name not in values:
                values[node.name] = self._compute(self.changed, node, s)
        return [values[node.name] for values in found]

    def forget(self, node: Node) -> None:
        """Compute the values of a node again, after its weights changed."""
        for values in self._values[self.changed]:
            values.pop(node.name, None)

    def axis_kept(self, node: Node, axis: int) -> Tensor | None:
        """The indices that were kept along an axis, None where all were."""
        kept = self.kept.get(node.name)
        return kept[axis] if kept else None

    def _restrict(self, value: Any, node: Node, whole_axis: int | None) -> Any:
        kept = self.kept.get(node.name, ())
        whole = None if whole_axis is None else whole_axis % max(1, len(kept))
        for axis, places in enumerate(kept):
            if places is not None and axis != whole:
                value = value.index_select(axis, places)
        return value

    def _differs(self, before: Node, after: Node) -> bool:
        if before.op == "placeholder":
            return False
        if after.name in self.kept or _literals(before) != _literals(after):
            return True
        for source, other in zip(before.all_input_nodes, after.all_input_nodes, strict=True):
            if source.name in self.differs:
                return True
            old, new = tensor_of(self.original, source), tensor_of(self.changed, other)
            if old is not None and (new is None or not torch.equal(old, new)):
                return True
        return False

    def _compute(self, graph: GraphModule, node: Node, sample: int) -> Any:
        values = self._values[graph][sample]
        tags = getattr(node.target, "tags", ())
        if graph is self.changed and torch.Tag.nondeterministic_seeded in tags:
            # Noise must be the same noise in both.
            return self._restrict(self._values[self.original][sample][node.name], node, None)
        run = self._runs[graph]
        run.env = {
            n: run.fetch_attr(str(n.target)) if n.op == "get_attr" else values[n.name]
            for n in node.all_input_nodes
        }
        return run.run_node(node)

    def _last_uses(self) -> dict[int, list[str]]:
        place = {name: i for i, name in enumerate(self._order)}
        last = dict(place)
        for nodes in self._nodes.values():
            for node in nodes.values():
                for source in node.all_input_nodes:
                    if source.name in last:
                        last[source.name] = max(last[source.name], place[node.name])
        uses: dict[int, list[str]] = {}
        for name, i in last.items():
            uses.setdefault(i, []).append(name)
        return uses

    def _within_memory(self, samples: Sequence[tuple[Tensor, ...]]) -> Sequence[tuple[Tensor, ...]]:
        needs: dict[tuple[torch.Size, ...], int] = {}
        total = 0
        for count, inputs in enumerate(samples):
            shapes = tuple(x.shape for x in inputs)
            if shapes not in needs:
                needs[shapes] = 2 * _most_bytes(self.original, inputs)
            total += needs[shapes]
            if total > _MEMORY and count:
                return samples[:count]
        return samples


def _by_name(module: GraphModule) -> dict[str, Node]:
    return {n.name: n for n in module.graph.nodes if n.op != "get_attr"}


def _literals(node: Node) -> str:
    return str([v for v in (*node.args, *node.kwargs.values()) if not isinstance(v, Node)])


def _most_bytes(module: GraphModule, inputs: tuple[Tensor, ...]) -> int:
    """Bytes of the values that are alive at one time, at most; found on shapes alone."""
    watch = _Alive(module)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        watch.run(*(mode.from_tensor(x) for x in inputs))
    return watch.most


class _Alive(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.most = 0

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        alive = [v for k, v in self.env.items() if k.op != "get_attr" and isinstance(v, Tensor)]
        bytes_ = sum(
            v.numel() * v.element_size() for v in (*alive, result) if isinstance(v, Tensor)
        )
        self.most = max(self.most, bytes_)
        return result
