"""Choose each layer's numbers from real inputs, by what they do to the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Port
from leangan.graph.observe import Reach
from leangan.graph.operators import arguments, aten, is_call, only_user
from leangan.graph.replay import first_tensor
from leangan.techniques.crop import crop
from leangan.techniques.layer_code import (
    Calibration,
    LayerCode,
    channel_axis,
    channel_shape,
    rounded,
)
from leangan.techniques.placement import Pool, keeps_channels, pools, quantizable
from leangan.techniques.range_options import layer_options, reaching
from leangan.techniques.ranges import RangeObserver
from leangan.techniques.round_feedback import round_feedback
from leangan.techniques.round_learned import round_learned
from leangan.techniques.scheme import Scheme
from leangan.techniques.trials import LAYER_MACS, Trials

_ROUGH = Scheme(range="minmax", equalize=False)
"""Numbers say nothing of the speed of 8 bits: the quickest to find will do to time a form."""
_ERROR_INPUTS = 6
"""Inputs from which the mean error of each layer is taken."""
_TRIED = 4
"""Of so many inputs one is kept for trials, where there are twice as many at least."""
_PROBES = 4
"""Inputs on which the output's error is measured, layer by layer."""


def calibrate(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    scheme: Scheme | None = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Run real inputs through the float generator and choose every layer's numbers.

    An input that comes straight from a port of known range is covered whole, so that white stays
    white even if no calibration picture was bright. For the others the widest range, a high
    percentile, the one with the least squared error and one between are tried, with input channels
    as they are and scaled to like ranges, and what the generator's *output* suffers least from is
    taken: a super-resolution network wants its outliers clipped (46 dB against 40), a network with
    instance normalization lives on them (42 dB against 29). Taking the mean rounding error off the
    bias is tried in the same way.

    Args:
        generator: float.
        data: inputs as the generator takes them; 8 to 64 typical ones are enough.
        scheme: bits, and how steps and ranges are chosen; 8 bits for both when left out.
        names: of the inputs, for the error that one of them may cause.
        seed: of the positions that fitted rounding looks at.
        progress: called with (units done, units in all).

    Returns:
        One `LayerCode` per quantizable layer, in the order of computation.

    Raises:
        UsageError: no data.
        LeanganError: there is no layer that could be quantized, or the float generator puts out
            NaN or Inf for an input, which is named.
    """
    schemes = {"": scheme or Scheme()}
    return calibrate_each(generator, data, schemes, names=names, seed=seed, progress=progress)[""]


def calibrate_each(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    schemes: Mapping[str, Scheme],
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Calibration]:
    """As `calibrate`, by several schemes; the data is run once for those that look at it alike.

    Args:
        generator: float.
        data: inputs as the generator takes them.
        schemes: by any names.
        names: of the inputs, for the error that one of them may cause.
        seed: of the positions that fitted rounding looks at.
        progress: called with (units done, units in all), of all schemes together.

    Returns:
        By the names of the schemes, what `calibrate` returns.

    Raises:
        UsageError: no data.
        LeanganError: as `calibrate`.
    """
    if not data:
        raise UsageError("Calibration needs at least one input; the data is empty.")
    module = generator.module()
    layers = quantizable(module)
    if not layers:
        raise LeanganError(f"{generator.name} has no layer that could run in 8 bits.")
    # A few latents fill the ranges of deep layers by chance: ranges are tried on others than
    # those that they were made of, or the tightest would win. A picture has many positions,
    # and flat colours among the pictures must be covered.
    pictures = any(port.kind == "image" for port in generator.signature.inputs)
    apart = not pictures and len(data) >= 2 * _TRIED
    unseen = data[_TRIED - 1 :: _TRIED] if apart else ()
    views = list(dict.fromkeys(map(_by_channel, schemes.values())))
    total = len(views) * len(data) + len(schemes) * len(layers)
    done = 0

    def tick(units: int) -> None:
        if progress:
            progress(min(total, done + units), total)

    found: dict[str, Calibration] = {}
    trials: Trials | None = None
    for view in views:
        seen = _observers(view, layers.values())
        with torch.no_grad():
            watch = _Watch(module, seen, layers.values())
            for number, inputs in enumerate(data, 1):
                watch.only_reach = bool(unseen) and number % _TRIED == 0
                name = names[number - 1] if names else f"input {number}"
                _check_finite(generator, name, first_tensor(watch.run(*inputs)))
                tick(number)
        done += len(data)
        trials = trials or Trials(
            generator, module, _cut_inputs(generator, unseen or data, _PROBES)
        )
        for word, scheme in schemes.items():
            if _by_channel(scheme) == view:
                chosen = _chosen(generator, module, data, scheme, seen, trials, tick)
                done += len(layers)
                codes = {n: replace(chosen[x], reach=watch.reach[x]) for n, x in layers.items()}
                found[word] = _fitted(generator, data, scheme, layers, codes, trials, seed)
    return {word: found[word] for word in schemes}


def _check_finite(generator: Generator, name: str, output: Tensor) -> None:
    if not bool(torch.isfinite(output).all()):
        raise LeanganError(
            f"{generator.name}, still in float, puts out NaN or Inf for {name}; check that file "
            "and the weights."
        )


def _chosen(
    generator: Generator,
    module: GraphModule,
    data: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    seen: Sequence[tuple[Pool, RangeObserver]],
    trials: Trials,
    tick: Callable[[int], None],
) -> dict[Node, LayerCode]:
    """Of each layer's ranges and biases those that the output suffers least from."""
    with torch.no_grad():
        options: dict[Node, list[LayerCode]] = {}
        for pool, observer in seen:
            options |= layer_options(generator, module, scheme, pool, observer, trials)
        chosen = trials.best(options, lambda done: tick(done // 2))
        chosen = {n: c for p, o in seen for n, c in reaching(p, chosen, o).items()}
        errors = _MeanError(module, chosen)
        for inputs in _cut_inputs(generator, data, _ERROR_INPUTS):
            errors.run(*inputs)
        shifted = {
            node: [code, replace(code, bias_shift=errors.mean(node))]
            if _keeps_mean(node)
            else [code]
            for node, code in chosen.items()
        }
        half = len(options) // 2
        return trials.best(shifted, lambda done: tick(half + (done + 1) // 2), budget=LAYER_MACS)


def _keeps_mean(node: Node) -> bool:
    """Whether a constant per channel counts; a norm right behind a layer takes it off again.

    A layer without a bias is followed by such a norm.
    """
    reader = only_user(node)
    if reader is not None and is_call(reader, aten.instance_norm):
        return not arguments(reader)["use_input_stats"]
    return node.args[2:3] not in ((), (None,))


def _fitted(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    layers: Mapping[str, Node],
    codes: Calibration,
    trials: Trials,
    seed: int,
) -> Calibration:
    """With the rounding of weights that the scheme asks for."""
    if scheme.rounding == "nearest":
        return codes
    fit = round_feedback if scheme.rounding == "feedback" else round_learned
    found = dict(fit(generator, codes, data, seed=seed))
    with torch.no_grad():
        single = {node: [found[name]] for name, node in layers.items()}
        measured = trials.best(single, budget=LAYER_MACS)
    return {name: measured[node] for name, node in layers.items()}


def rough(generator: Generator, inputs: tuple[Tensor, ...]) -> Calibration:
    """Numbers that tell how fast a generator is in 8 bits, and nothing of its quality.

    Whole ranges of one input are covered, and nothing is tried.

    Args:
        generator: float, with layers that could be quantized.
        inputs: of any size that it takes.
    """
    module = generator.module()
    layers = quantizable(module)
    seen = _observers(_by_channel(_ROUGH), layers.values())
    with torch.no_grad():
        watch = _Watch(module, seen, layers.values())
        watch.run(*inputs)
    options: dict[Node, list[LayerCode]] = {}
    for pool, observer in seen:
        options |= layer_options(generator, module, _ROUGH, pool, observer)
    return {n: replace(options[node][0], reach=watch.reach[node]) for n, node in layers.items()}


def _by_channel(scheme: Scheme) -> bool:
    """Whether it looks at the channels of what layers read one by one."""
    return scheme.equalize and scheme.activation_bits == 8


def _observers(by_channel: bool, layers: Iterable[Node]) -> list[tuple[Pool, RangeObserver]]:
    return [
        (pool, RangeObserver(_channel_axis(pool) if by_channel else None)) for pool in pools(layers)
    ]


def _channel_axis(pool: Pool) -> int | None:
    """The channel axis of what is read where its channels may be scaled apart, else None."""
    if pool.values[0].op == "placeholder":  # a few latents say little of each channel
        return None
    linear = {node.target is torch.ops.aten.linear.default for node in pool.layers}
    if len(linear) > 1 or not all(keeps_channels(node) for node in pool.layers):
        return None
    if len(pool.values) > 1 and linear == {True}:  # joined along another axis than it reads
        return None
    return -1 if linear.pop() else 1


def _cut_inputs(
    generator: Generator, data: Sequence[tuple[Tensor, ...]], count: int
) -> list[tuple[Tensor, ...]]:
    """A few inputs cut to at most half their typical size: noise is local, time is not."""
    few = data[:: -(-len(data) // count)]
    return [crop(generator, inputs, _half_size) for inputs in few]


def _half_size(port: Port, axis: int, size: int) -> int:
    return min(port.typical[axis] // 2, 128)


class _Watch(Interpreter):
    """Runs the float graph: shows observers what layers read, notes how far their outputs reach."""

    def __init__(
        self,
        module: GraphModule,
        observers: Sequence[tuple[Pool, RangeObserver]],
        layers: Iterable[Node],
    ) -> None:
        super().__init__(module)
        self.reach = {node: Reach(channel_axis(node)) for node in layers}
        self.only_reach = False
        self._pools = {value: (pool, obs) for pool, obs in observers for value in pool.values}
        self._held: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self.reach:
            assert isinstance(value, Tensor)
            self.reach[n].see(value)
        if n in self._pools:
            assert isinstance(value, Tensor)
            self._held[n] = value
            pool, observer = self._pools[n]
            if all(v in self._held for v in pool.values):
                parts = [self._held.pop(v) for v in pool.values]
                whole = torch.cat(parts, 1) if len(parts) > 1 else value
                (observer.reach if self.only_reach else observer.see)(whole)
        return value


class _MeanError(Interpreter):
    """Runs the float graph and collects, per layer, the mean error of its 8-bit form."""

    def __init__(self, module: GraphModule, layers: Mapping[Node, LayerCode]) -> None:
        super().__init__(module)
        self.layers = layers
        self.sums: dict[Node, list[Tensor]] = {}

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if n in self.layers:
            assert isinstance(result, Tensor)
            args, _ = self.fetch_args_kwargs_from_env(n)
            error = rounded(self.layers[n])(n, args) - result
            shape = channel_shape(n, result)
            axes = [axis for axis, size in enumerate(shape) if size == 1]
            self.sums.setdefault(n, []).append(error.mean(axes))
        return result

    def mean(self, node: Node) -> Tensor:
        return torch.stack(self.sums[node]).mean(0)
