"""Choose each layer's 8-bit numbers from real inputs, by what they do to the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.graph.cost import layers as cost_layers
from leangan.graph.replay import Replay, first_tensor
from leangan.graph.rewrite import layer_name, tensor_of
from leangan.techniques.placement import TRANSPOSED, WEIGHTED, groups_of, quantizable, source_of
from leangan.techniques.ranges import RangeObserver, affine_u8, symmetric_scales

_ERROR_INPUTS = 6
"""Inputs from which the mean error of each layer is taken."""
_PROBES = 4
"""Inputs on which the output's error is measured, layer by layer."""
PROBE_MACS = 1.5e12
"""What finding the sensitivities may cost, in multiply-accumulates: half a minute on two cores."""


@dataclass(frozen=True)
class Layer8:
    """How one layer is to be computed in 8 bits, and what that costs."""

    name: str
    source: str
    """Where its input was computed; layers with the same one share its range."""
    input_scale: float
    input_zero_point: int
    weight_scales: Tensor
    """float32, one per output channel, or one in all for grouped transposed convolutions."""
    bias_shift: Tensor
    """float32 [out channels]: the mean error that rounding makes, to be taken off the bias."""
    range_by: str
    """How the input's range was chosen: "minmax" is all that was seen, "mse" has the least squared
    error, "between" is their geometric mean, "signature" is a port's known range."""
    noise: float
    """Mean squared error of the generator's (first) output when only this layer is in 8 bits."""


Calibration = Mapping[str, Layer8]
"""By layer name; made once, applied to any choice of layers."""


def calibrate(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    *,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Run real inputs through the float generator and choose every layer's 8-bit numbers.

    An input that comes straight from a port of known range is covered whole, so that white stays
    white even if no calibration picture was bright. For the others the widest range, the one with
    the least squared error and one between them are tried, and the one that the generator's
    *output* suffers least from is taken: a super-resolution network wants its outliers clipped
    (46 dB against 40), a network with instance normalization lives on them (42 dB against 29).
    Taking the mean rounding error off the bias is tried in the same way.

    Args:
        generator: float.
        data: inputs as the generator takes them; 8 to 64 typical ones are enough.
        names: of the inputs, for the error that one of them may cause.
        progress: called with (units done, units in all).

    Returns:
        One `Layer8` per quantizable layer, in the order of computation.

    Raises:
        UsageError: no data.
        LeanganError: there is no layer that could run in 8 bits, or the float generator puts out
            NaN or Inf for an input, which is named.
    """
    if not data:
        raise UsageError("Calibration needs at least one input; the data is empty.")
    module = generator.module()
    layers = quantizable(module)
    if not layers:
        raise LeanganError(f"{generator.name} has no layer that could run in 8 bits.")
    total = len(data) + len(layers)
    tick = progress or (lambda done, of: None)
    sources = {node: source_of(node)[0] for node in layers.values()}
    # Layers that read the same values (the phases of a transposed convolution) share one range:
    # several would mean several quantizers on one tensor, and no integer kernel for all of them.
    observers = {source: RangeObserver() for source in sources.values()}
    with torch.no_grad():
        watch = _Watch(module, observers)
        for done, inputs in enumerate(data, 1):
            if not bool(torch.isfinite(first_tensor(watch.run(*inputs))).all()):
                name = names[done - 1] if names else f"input {done}"
                raise LeanganError(
                    f"{generator.name}, still in float, puts out NaN or Inf for {name}; check "
                    "that file and the weights."
                )
            tick(done, total)
        options = {
            n: _options(generator, module, n, source, observers[source])
            for n, source in sources.items()
        }
        errors = _MeanError(module, {node: choices[-1] for node, choices in options.items()})
        for inputs in _cut_inputs(generator, data, _ERROR_INPUTS):
            errors.run(*inputs)
        for node, choices in options.items():
            # A layer without a bias is followed by a norm, which takes the mean off again.
            if len(node.args) > 2 and node.args[2] is not None:
                choices.append(replace(choices[-1], bias_shift=errors.mean(node)))
        chosen: dict[str, Layer8] = {}
        for layer in _least_noise(generator, module, data, options):
            chosen[layer.name] = layer
            tick(len(data) + len(chosen), total)
    return {name: chosen[name] for name in layers}


def rounded(layer: Layer8) -> Callable[[Node, tuple[object, ...]], Tensor]:
    """What a node puts out when its input and weight are rounded as `layer` says."""

    def compute(node: Node, args: tuple[object, ...]) -> Tensor:
        x, w, *rest = args
        assert isinstance(x, Tensor)
        assert isinstance(w, Tensor)
        code = (x / layer.input_scale).round_().add_(layer.input_zero_point).clamp_(0, 255)
        x8 = code.sub_(layer.input_zero_point).mul_(layer.input_scale)
        scales = along_channels(layer.weight_scales, w, node)
        w8 = (w / scales).round_().clamp_(-127, 127).mul_(scales)
        result: Tensor = node.target(x8, w8, *rest)  # type: ignore[operator]
        return result - layer.bias_shift.reshape(_channel_shape(node, result))

    return compute


def along_channels(scales: Tensor, weight: Tensor, node: Node) -> Tensor:
    """`scales` in a shape that multiplies `weight` channel by channel."""
    if scales.numel() == 1:
        return scales
    shape = [1] * weight.dim()
    shape[WEIGHTED[node.target]] = -1
    return scales.reshape(shape)


def _channel_shape(node: Node, result: Tensor) -> list[int]:
    shape = [1] * result.dim()
    shape[-1 if node.target is torch.ops.aten.linear.default else 1] = -1
    return shape


def _options(
    generator: Generator, module: GraphModule, node: Node, source: Node, seen: RangeObserver
) -> list[Layer8]:
    """The ranges worth trying, the widest first, the tightest last.

    The bias is shifted, as a further option, by the mean error of the last one.
    """
    weight = tensor_of(module, node.args[1])
    assert weight is not None
    axis = WEIGHTED[node.target]
    per_tensor = node.target in TRANSPOSED and groups_of(node) > 1
    scales = symmetric_scales(weight.detach(), None if per_tensor else axis)

    def option(by: str, low: float, high: float) -> Layer8:
        scale, zero = affine_u8(low, high)
        return Layer8(layer_name(node), source.name, scale, zero, scales, torch.zeros(1), by, 0.0)

    ports = [n for n in module.graph.nodes if n.op == "placeholder"]
    if source in ports:
        known = generator.signature.inputs[ports.index(source)].range
        if known is not None:
            return [option("signature", min(known[0], 0.0), max(known[1], 0.0))]
    (low, high), (least, most) = seen.minmax(), seen.mse(256)
    return [
        option("minmax", low, high),
        option("between", -math.sqrt(low * least), math.sqrt(high * most)),
        option("mse", least, most),
    ]


def _least_noise(
    generator: Generator,
    module: GraphModule,
    data: Sequence[tuple[Tensor, ...]],
    options: Mapping[Node, Sequence[Layer8]],
) -> Iterable[Layer8]:
    """Each layer's option that the output suffers least from, with what it suffers.

    Where trying layer by layer would take too long, neighbours are tried together and share the
    noise evenly.
    """
    probes = _cut_inputs(generator, data, _PROBES)
    replays = [Replay(module, inputs) for inputs in probes]
    most = max(len(choices) for choices in options.values())
    macs = sum(layer.macs for layer in cost_layers(generator, probes[0]))
    # From a layer onwards is half of the network on average.
    cost = macs / 2 * len(probes) * len(options) * most
    size = math.ceil(cost / PROBE_MACS)
    for group in _groups(options, size):
        tried: list[tuple[float, int]] = []
        for pick in range(max(len(options[n]) for n in group)):
            trial = {n: rounded(options[n][min(pick, len(options[n]) - 1)]) for n in group}
            errors = [float((r.changed(trial) - r.output).square().mean()) for r in replays]
            tried.append((sum(errors) / len(errors), pick))
        noise, pick = min(tried)
        for n in group:
            yield replace(options[n][min(pick, len(options[n]) - 1)], noise=noise / len(group))


def _groups(options: Mapping[Node, Sequence[Layer8]], size: int) -> list[list[Node]]:
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


def _cut_inputs(
    generator: Generator, data: Sequence[tuple[Tensor, ...]], count: int
) -> list[tuple[Tensor, ...]]:
    """A few inputs cut to at most half their typical size: noise is local, time is not."""
    ports = generator.signature.inputs
    cut = []
    for inputs in data[:: -(-len(data) // count)]:
        pieces = []
        for x, port in zip(inputs, ports, strict=True):
            for axis, letter in enumerate(port.layout):
                if letter in "HWT" and port.shape[axis] is None:
                    multiple = port.multiple_of(axis)
                    size = max(multiple, min(port.typical[axis] // 2, 128) // multiple * multiple)
                    if size < x.shape[axis]:
                        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
            pieces.append(x.contiguous())
        cut.append(tuple(pieces))
    return cut


class _Watch(Interpreter):
    """Runs the float graph and shows the values that layers read to their observers."""

    def __init__(self, module: GraphModule, observers: Mapping[Node, RangeObserver]) -> None:
        super().__init__(module)
        self.observers = observers

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self.observers:
            assert isinstance(value, Tensor)
            self.observers[n].see(value)
        return value


class _MeanError(Interpreter):
    """Runs the float graph and collects, per layer, the mean error of its 8-bit form."""

    def __init__(self, module: GraphModule, layers: Mapping[Node, Layer8]) -> None:
        super().__init__(module)
        self.layers = layers
        self.sums: dict[Node, list[Tensor]] = {}

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if n in self.layers:
            assert isinstance(result, Tensor)
            args, _ = self.fetch_args_kwargs_from_env(n)
            error = rounded(self.layers[n])(n, args) - result
            shape = _channel_shape(n, result)
            axes = [axis for axis, size in enumerate(shape) if size == 1]
            self.sums.setdefault(n, []).append(error.mean(axes))
        return result

    def mean(self, node: Node) -> Tensor:
        return torch.stack(self.sums[node]).mean(0)
