"""From what a runtime says of its executed nodes to the time of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

RUNS = 9
"""Runs that are looked at; a node takes the median over them."""
SECONDS = 1.5
"""No run is begun after that long: slow networks are looked at less often."""


@dataclass(frozen=True)
class Executed:
    """One node of the graph that a runtime really runs, after all its fusions."""

    name: str
    ms: float
    layer: str | None
    """The layer whose multiplications it does, None for everything else."""
    helper: bool
    """Whether it only brings values into another form or place (quantizes, reorders, pads)."""
    reads: tuple[str, ...]
    """Names of the nodes that it reads from."""


def by_layer(nodes: Sequence[Executed]) -> dict[str, float]:
    """Milliseconds of each layer, with what is done for it alone.

    A helper is counted to the layer that its values go to, the first where there are several; one
    whose values go elsewhere to the layer that they come from. What else a network does
    (normalizations, additions that were not fused) belongs to no layer.

    Args:
        nodes: in the order of execution. A layer that is several of them gets their sum.
    """
    known = {node.name: node for node in nodes}
    readers: dict[str, list[Executed]] = {node.name: [] for node in nodes}
    for node in nodes:
        for source in node.reads:
            if source in readers:
                readers[source].append(node)

    def sources(node: Executed) -> list[Executed]:
        return [known[name] for name in node.reads if name in known]

    times: dict[str, float] = {}
    for node in nodes:
        layer = node.layer
        if layer is None and node.helper:
            layer = _nearest(node, lambda n: readers[n.name]) or _nearest(node, sources)
        if layer is not None:
            times[layer] = times.get(layer, 0.0) + node.ms
    return times


def _nearest(start: Executed, step: Callable[[Executed], Sequence[Executed]]) -> str | None:
    """The first layer that is reached from a helper through helpers alone."""
    seen, waiting = {start.name}, [start]
    while waiting:
        for node in step(waiting.pop(0)):
            if node.layer is not None:
                return node.layer
            if node.helper and node.name not in seen:
                seen.add(node.name)
                waiting.append(node)
    return None


def run_often(run: Callable[[], object]) -> None:
    """Call it once, and then `RUNS` times or for `SECONDS`, whichever is less."""
    run()
    end = perf_counter() + SECONDS
    for _ in range(RUNS):
        run()
        if perf_counter() > end:
            break


def typical(ms: Sequence[float]) -> float:
    """The median of the runs but for the first, which compiles and allocates."""
    return median(ms[1:])
