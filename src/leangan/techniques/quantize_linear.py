"""Linear quantization in the graph, post-training.

`w_q = round(w / s)`, `w ~ w_q * s`: weights symmetric, one scale per output channel unless the
scheme says otherwise; activations affine or signed, one scale per tensor (Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference";
Nagel et al. 2021, "A White Paper on Neural Network Quantization"). The result is the PT2E form:
quantize and dequantize operators around each layer, which OpenVINO and ONNX Runtime turn into
integer kernels.

Choices that matter on generators are made here and in placement.py:

- Only the inputs of weighted layers are quantized. A residual stream stays float: rounding it
  again at every block is what destroys image translation networks in tools made for classifiers.
- Where padding or another operator that only moves values stands in front of a layer, the values
  are quantized before it.
- Transposed convolutions get their scales along axis 1, where their output channels lie.
- Layers that read common values, as in a dense block, share one range and one set of factors, so
  that each value is rounded once.
- Channels of an input that differ in range are divided by factors of their own before they share
  one scale; runtimes fuse that into what computes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches

import torch
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.observe import Reach
from leangan.graph.rewrite import new_tensor_node, recapture, tensor_of, tidy
from leangan.techniques.calibrate import calibrate
from leangan.techniques.layer_code import Calibration, LayerCode, channel_shape
from leangan.techniques.order import refuse_quantized
from leangan.techniques.placement import quantizable, source_of
from leangan.techniques.scheme import FLOAT, Scheme

_q = torch.ops.quantized_decomposed
_aten = torch.ops.aten
_FEW = 8
"""Layers that are all listed where one's name is wrong."""


def quantize(
    generator: Generator,
    calibration: Calibration | Iterable[tuple[torch.Tensor, ...]],
    *,
    scheme: Scheme | None = None,
    keep_float: Collection[str] = (),
) -> Generator:
    """Put quantize and dequantize operators around every layer but those in `keep_float`.

    Args:
        generator: float.
        calibration: what `calibrate` gave, or the inputs to calibrate on.
        scheme: what to calibrate for, where inputs are given; 8 bits when left out.
        keep_float: layer names, as `leangan inspect` prints them.

    Raises:
        UsageError: an unknown layer name, or nothing is left to quantize.
    """
    refuse_quantized(generator, "Quantize")
    if not isinstance(calibration, Mapping):
        calibration = calibrate(generator, list(calibration), scheme)
    check_names(generator, keep_float, calibration)
    module = generator.module()
    wanted = {
        name: node
        for name, node in quantizable(module).items()
        if name in calibration and name not in keep_float
    }
    if not wanted:
        raise UsageError("Every layer was kept in float; there is nothing to quantize.")
    inputs: dict[tuple[Node, str], Node] = {}
    for name, node in wanted.items():
        layer = calibration[name]
        if layer.scheme.activation_bits is not None:
            _quantize_input(module, node, layer, inputs)
        _quantize_weight(module, node, layer)
    tidy(module)
    seen = {n: {"noise": calibration[n].noise, "range": calibration[n].range_by} for n in wanted}
    reach = {n: _short(layer.reach) for n in wanted if (layer := calibration[n]).reach is not None}
    measured = {"layers": seen, "reach": reach}
    step = Step("quantize_linear", _settings(calibration, wanted), measured)
    return recapture(generator, module, step)


def check_names(generator: Generator, names: Collection[str], known: Collection[str]) -> None:
    """Refuse names of layers that there are not.

    Raises:
        UsageError: names the first, and what it may have been meant for.
    """
    for name in sorted(set(names) - set(known)):
        few = len(known) <= _FEW
        close = list(known) if few else get_close_matches(name, known, 3) or list(known)
        raise UsageError(
            f"{generator.name} has no layer {name!r} that could be quantized; it has "
            f"{', '.join(close)}."
        )


def _short(reach: Reach) -> dict[str, list[float]]:
    """To three digits, which is finer than a step of 8 bits."""
    numbers = {"low": reach.low, "high": reach.high, "deviation": reach.deviation}
    return {key: [float(f"{v:.3g}") for v in vector.tolist()] for key, vector in numbers.items()}


def _settings(calibration: Calibration, wanted: Mapping[str, Node]) -> dict[str, object]:
    """What was done, for the history: the scheme, and each layer's precision."""
    first = calibration[next(iter(wanted))].scheme
    words = {n: c.scheme.word if n in wanted else FLOAT for n, c in calibration.items()}
    return {**asdict(first), "words": words}


def _quantize_input(
    module: GraphModule, node: Node, layer: LayerCode, done: dict[tuple[Node, str], Node]
) -> None:
    source, taker = source_of(node)
    factors = None if layer.factors is None else tuple(layer.factors.tolist())
    key = (source, str((layer.input_scale, layer.input_zero_point, layer.top, factors)))
    if key not in done:  # layers that share an input and its range share the operators
        graph, after = module.graph, source
        if layer.factors is not None:
            ahead = source.next
            while ahead.op == "placeholder":
                ahead = ahead.next
            shape = channel_shape(node, source.meta["val"])
            divisors = (1 / layer.factors).reshape(shape)
            weight = node.args[1]
            assert isinstance(weight, Node)
            path = f"{weight.target}_input_factors"
            constant = new_tensor_node(module, ahead, path, divisors, learned=False)
            with graph.inserting_before(ahead):
                after = graph.call_function(_aten.mul.Tensor, (source, constant))
        kind = torch.uint8 if layer.top == 255 else torch.uint16
        numbers = (layer.input_scale, layer.input_zero_point, 0, layer.top, kind)
        with graph.inserting_after(after):
            code = graph.call_function(_q.quantize_per_tensor.default, (after, *numbers))
        with graph.inserting_after(code):
            back = graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
        done[key] = back
    taker.replace_input_with(source, done[key])


def _quantize_weight(module: GraphModule, node: Node, layer: LayerCode) -> None:
    weight_node = node.args[1]
    weight = tensor_of(module, weight_node)
    assert isinstance(weight_node, Node)
    assert weight is not None
    weight = weight.detach()
    path, grid, graph = str(weight_node.target), layer.grid, module.graph
    codes = layer.weight_codes(weight, node)
    lined = codes.movedim(grid.axis, 0)
    rows = len(grid.scales)
    grouped = rows not in (1, len(lined))
    if grouped:  # rows of neighbours within a channel, put together again behind
        codes = grid.rows(codes)
    code = new_tensor_node(
        module, node, f"{path}_int8", codes.to(torch.int8).contiguous(), learned=False
    )
    limits = (grid.low, grid.high, torch.int8)
    if rows == 1:
        with graph.inserting_before(node):
            numbers = (float(grid.scales), int(grid.zero_points), *limits)
            back = graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
    else:
        scale = new_tensor_node(module, node, f"{path}_scale", grid.scales, learned=False)
        zero = new_tensor_node(module, node, f"{path}_zero_point", grid.zero_points, learned=False)
        with graph.inserting_before(node):
            channels = (scale, zero, 0 if grouped else grid.axis, *limits)
            back = graph.call_function(_q.dequantize_per_channel.default, (code, *channels))
            if grouped:
                back = graph.call_function(_aten.view.default, (back, list(lined.shape)))
                if grid.axis:
                    back = graph.call_function(_aten.transpose.int, (back, 0, grid.axis))
    node.update_arg(1, back)
    if layer.bias_shift is not None:
        _shift_bias(module, node, layer.bias_shift)


def _shift_bias(module: GraphModule, node: Node, shift: Tensor) -> None:
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = tensor_of(module, bias_node)
    # Without a bias a norm follows, which takes the mean off again.
    if isinstance(bias_node, Node) and bias is not None:
        name = f"{bias_node.target}_shifted"
        node.update_arg(2, new_tensor_node(module, node, name, bias.detach() - shift))
