"""The ranges and channel factors that are worth trying for what enters a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.rewrite import layer_name, tensor_of
from leangan.techniques.grid import make_grid, row_count
from leangan.techniques.layer_code import LayerCode, largest_per_input, scaled_inputs
from leangan.techniques.placement import TRANSPOSED, WEIGHTED, Pool, groups_of
from leangan.techniques.ranges import Bounds, RangeObserver, affine_codes, search_bounds
from leangan.techniques.scheme import Scheme
from leangan.techniques.trials import Trials

_SHARES = (0.5, 0.75)
"""How much of the difference between channels the weights take over: the input's ranges then
differ as their own to the power of 1 minus this, so to say."""
_DEAD = 0.03
"""Share of the strongest channel's range below which channels are treated alike: what a few inputs
hardly moved, others may."""
_SHRINKS = np.linspace(1.0, 0.3, 15)


def layer_options(
    generator: Generator,
    module: GraphModule,
    scheme: Scheme,
    pool: Pool,
    seen: RangeObserver,
    trials: Trials | None = None,
) -> dict[Node, list[LayerCode]]:
    """What may be tried for the layers of one pool: as many options for each of them.

    Args:
        generator: float.
        module: its graph.
        scheme: bits and rules.
        pool: the layers, and what they read.
        seen: the values that they read.
        trials: hold these values, for `Scheme.range` "search" alone.
    """
    source = pool.values[0]
    known = _known_range(generator, module, source) if len(pool.values) == 1 else None
    weights = {node: _weight(module, node) for node in pool.layers}
    found: dict[Node, list[LayerCode]] = {node: [] for node in pool.layers}
    for factors in [None] if known else [None, *_factors(pool, seen, weights)]:
        blanks = {
            n: _with_grid(
                scheme, n, source, w, None if factors is None else factors[pool.channels(n)]
            )
            for n, w in weights.items()
        }
        ranges = {"signature": known} if known else _ranges(scheme, seen, factors)
        for by, bounds in ranges.items():
            made = {n: _covering(code, by, bounds) for n, code in blanks.items()}
            if by == "search":
                assert trials is not None
                bounds = _searched(made, weights, bounds, trials)
                made = {n: _covering(code, by, bounds) for n, code in blanks.items()}
            for node, code in made.items():
                found[node].append(code)
    return found


def reaching(
    pool: Pool, codes: Mapping[Node, LayerCode], seen: RangeObserver
) -> dict[Node, LayerCode]:
    """The codes of a pool's layers; where the whole range was chosen, with that of all inputs."""
    made = {node: codes[node] for node in pool.layers}
    if any(code.range_by != "minmax" for code in made.values()):
        return made
    factors = None
    if seen.axis is not None:
        factors = torch.ones(len(seen.low))
        for node, code in made.items():
            if code.factors is not None:
                factors[pool.channels(node)] = code.factors
    bounds = seen.widest(factors)
    return {node: _covering(code, "minmax", bounds) for node, code in made.items()}


def _weight(module: GraphModule, node: Node) -> Tensor:
    weight = tensor_of(module, node.args[1])
    assert weight is not None
    return weight.detach()


def _known_range(generator: Generator, module: GraphModule, source: Node) -> Bounds | None:
    ports = [n for n in module.graph.nodes if n.op == "placeholder"]
    if source not in ports:
        return None
    known = generator.signature.inputs[ports.index(source)].range
    return None if known is None else (min(known[0], 0.0), max(known[1], 0.0))


def _factors(pool: Pool, seen: RangeObserver, weights: dict[Node, Tensor]) -> list[Tensor]:
    """Per share, what each channel is divided by; their geometric mean is 1."""
    if seen.axis is None:
        return []
    reach = torch.maximum(seen.high, -seen.low)
    meets = torch.zeros_like(reach)
    for node, weight in weights.items():
        mine = pool.channels(node)
        meets[mine] = torch.maximum(meets[mine], largest_per_input(weight, node))
    found = []
    for share in _SHARES:
        log = share * _log(reach) - (1 - share) * _log(meets)
        found.append((log - log.mean()).exp().float())
    return found


def _log(values: Tensor) -> Tensor:
    return values.double().clamp_min(max(float(values.max()), 1e-12) * _DEAD).log()


def _ranges(scheme: Scheme, seen: RangeObserver, factors: Tensor | None) -> dict[str, Bounds]:
    if scheme.activation_bits is None:
        return {"float": (0.0, 1.0)}
    widest = seen.minmax(factors)
    if scheme.activation_bits == 16:  # so fine that nothing need be clipped
        return {"minmax": widest}
    if scheme.range in ("minmax", "search"):
        return {scheme.range: widest}
    if scheme.range == "percentile":
        return {"percentile": seen.percentile(factors)}
    if scheme.range == "entropy":
        return {"entropy": seen.entropy(256, factors)}
    tightest = seen.mse(256, factors)
    if scheme.range == "mse":
        return {"mse": tightest}
    most = seen.percentile(factors)
    if factors is not None:
        return {"minmax": widest, "percentile": most, "mse": tightest}
    between = -math.sqrt(widest[0] * tightest[0]), math.sqrt(widest[1] * tightest[1])
    return {"minmax": widest, "between": between, "percentile": most, "mse": tightest}


def _with_grid(
    scheme: Scheme, node: Node, source: Node, weight: Tensor, factors: Tensor | None
) -> LayerCode:
    axis = WEIGHTED[node.target]
    # Output channels of a grouped transposed weight share its axis: a step of each is no form that
    # runtimes have.
    per = "tensor" if node.target in TRANSPOSED and groups_of(node) > 1 else scheme.per
    grid = make_grid(
        weight if factors is None else scaled_inputs(weight, factors, node),
        axis,
        scheme.weight_bits,
        symmetric=scheme.symmetric,
        rows=row_count(weight, axis, per, scheme.group),
        step=scheme.step,
    )
    return LayerCode(layer_name(node), source.name, scheme, grid, factors=factors)


def _covering(code: LayerCode, by: str, bounds: Bounds) -> LayerCode:
    bits, signed = code.scheme.activation_bits or 8, code.scheme.signed
    scale, zero = affine_codes(*bounds, bits=bits, signed=signed)
    return replace(code, input_scale=scale, input_zero_point=zero, range_by=by)


def _searched(
    codes: Mapping[Node, LayerCode],
    weights: Mapping[Node, Tensor],
    widest: Bounds,
    trials: Trials,
) -> Bounds:
    """Bounds with the least error of what the layers of one source put out, each end in turn."""

    def put_out(node: Node, x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = node.target(x, w, None, *node.args[3:])  # type: ignore[operator]
        return result

    cases = []
    for node, code in codes.items():
        assert isinstance(node.args[0], Node)
        made = code.grid.values(code.weight_codes(weights[node], node))
        for x in trials.values(node.args[0]):
            cases.append((node, code, x, made, put_out(node, x, weights[node])))

    def error(low: float, high: float) -> float:
        total = 0.0
        for node, code, x, made, wanted in cases:
            rounded_x = _covering(code, "search", (low, high)).rounded_input(x, node)
            total += float((put_out(node, rounded_x, made) - wanted).square().mean())
        return total

    return search_bounds(error, widest, _SHRINKS)
