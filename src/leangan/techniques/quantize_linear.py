"""Linear 8-bit quantization in the graph (W8A8, post-training).

`w_q = round(w / s)`, `w ~ w_q * s`: weights symmetric, one scale per output channel; activations
affine, one scale per tensor (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference"; Nagel et al. 2021, "A White Paper on Neural Network
Quantization"). The result is the PT2E form: quantize and dequantize operators around each layer,
which OpenVINO and ONNX Runtime turn into integer kernels.

Three choices matter on generators, and are made here and in placement.py:

- Only the inputs of weighted layers are quantized. A residual stream stays float: rounding it
  again at every block is what destroys image translation networks in tools made for classifiers.
- Where padding or another operator that only moves values stands in front of a layer, the values
  are quantized before it.
- Transposed convolutions get their scales along axis 1, where their output channels lie.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.fx import GraphModule, Node

from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.rewrite import new_tensor_node, recapture, tensor_of, tidy
from leangan.techniques.calibrate import Calibration, Layer8, along_channels, calibrate
from leangan.techniques.placement import WEIGHTED, quantizable, source_of

_q = torch.ops.quantized_decomposed


def quantize(
    generator: Generator,
    calibration: Calibration | Iterable[tuple[torch.Tensor, ...]],
    *,
    keep_float: Collection[str] = (),
) -> Generator:
    """Put quantize and dequantize operators around every layer but those in `keep_float`.

    Args:
        generator: float.
        calibration: what `calibrate` gave, or the inputs to calibrate on.
        keep_float: layer names, as `leangan inspect` prints them.

    Raises:
        UsageError: an unknown layer name, or nothing is left to quantize.
    """
    if not isinstance(calibration, Mapping):
        calibration = calibrate(generator, list(calibration))
    unknown = sorted(set(keep_float) - set(calibration))
    if unknown:
        raise UsageError(
            f"{generator.name} has no layer {unknown[0]!r} that could run in 8 bits; it has "
            f"{', '.join(calibration)}."
        )
    module = generator.module()
    wanted = {n: node for n, node in quantizable(module).items() if n not in keep_float}
    if not wanted:
        raise UsageError("Every layer was kept in float; there is nothing to quantize.")
    inputs: dict[tuple[Node, float, int], Node] = {}
    for name, node in wanted.items():
        _quantize_input(module, node, calibration[name], inputs)
        _quantize_weight(module, node, calibration[name])
    tidy(module)
    settings = {"bits": 8, "layers": len(wanted), "keep_float": sorted(keep_float)}
    return recapture(generator, module, Step("quantize_linear", settings))


def _quantize_input(
    module: GraphModule, node: Node, layer: Layer8, done: dict[tuple[Node, float, int], Node]
) -> None:
    source, taker = source_of(node)
    key = (source, layer.input_scale, layer.input_zero_point)
    if key not in done:  # layers that share an input and its range share the operators
        numbers = (layer.input_scale, layer.input_zero_point, 0, 255, torch.uint8)
        with module.graph.inserting_after(source):
            code = module.graph.call_function(_q.quantize_per_tensor.default, (source, *numbers))
        with module.graph.inserting_after(code):
            back = module.graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
        done[key] = back
    taker.replace_input_with(source, done[key])


def _quantize_weight(module: GraphModule, node: Node, layer: Layer8) -> None:
    weight_node = node.args[1]
    weight = tensor_of(module, weight_node)
    assert isinstance(weight_node, Node)
    assert weight is not None
    path = str(weight_node.target)
    scales = along_channels(layer.weight_scales, weight, node)
    rounded = (weight.detach() / scales).round().clamp(-127, 127).to(torch.int8)
    code = new_tensor_node(module, node, f"{path}_int8", rounded, learned=False)
    graph = module.graph
    if layer.weight_scales.numel() == 1:
        with graph.inserting_before(node):
            numbers = (float(layer.weight_scales), 0, -127, 127, torch.int8)
            back = graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
    else:
        scale = new_tensor_node(module, node, f"{path}_scale", layer.weight_scales, learned=False)
        zeros = torch.zeros(layer.weight_scales.numel(), dtype=torch.int64)
        zero = new_tensor_node(module, node, f"{path}_zero_point", zeros, learned=False)
        with graph.inserting_before(node):
            channels = (scale, zero, WEIGHTED[node.target], -127, 127, torch.int8)
            back = graph.call_function(_q.dequantize_per_channel.default, (code, *channels))
    node.update_arg(1, back)
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = tensor_of(module, bias_node)
    if (
        isinstance(bias_node, Node) and bias is not None
    ):  # without one a norm follows, which takes the mean off again
        shifted = bias.detach() - layer.bias_shift
        name = f"{bias_node.target}_shifted"
        node.update_arg(2, new_tensor_node(module, node, name, shifted))
