"""ONNX operators with weights, windows and resampling, as PyTorch computes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch import Tensor

from leangan.errors import LeanganError
from leangan.sources.onnx_host import Host, ratio, same
from leangan.sources.onnx_model import OnnxNode

_q = torch.ops.quantized_decomposed
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
_CODES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}


def _halves(total: Any, node: OnnxNode) -> tuple[Any, Any]:
    """An uneven padding's bigger half comes last in SAME_UPPER, first otherwise."""
    small = total // 2
    upper = node.get("auto_pad", "NOTSET") == "SAME_UPPER"
    return (small, total - small) if upper else (total - small, small)


def _window_pads(
    node: OnnxNode,
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[Any, Any]]:
    """Zeros in front of and behind each spatial axis."""
    axes = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * axes
    if auto == "NOTSET":
        pads = node.get("pads", [0] * 2 * axes)
        return list(zip(pads[:axes], pads[axes:], strict=True))
    made = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = (-(-size // s) - 1) * s + (k - 1) * d + 1 - size
        made.append(_halves(torch.sym_max(total, 0), node))
    return made


def _padded(x: Tensor, pads: Sequence[tuple[Any, Any]], value: float = 0.0) -> Tensor:
    flat = [n for pair in reversed(pads) for n in pair]
    return F.pad(x, flat, value=value)


def conv(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution over 1 to 3 axes."""
    axes = weight.dim() - 2
    strides, dilations = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    pads = _window_pads(node, x, weight.shape[2:], strides, dilations)
    if any(a is not b and a != b for a, b in pads):
        x, pads = _padded(x, pads), [(0, 0)] * axes
    padding = [a for a, _ in pads]
    return _CONVOLUTIONS[axes](x, weight, bias, strides, padding, dilations, node.get("group", 1))


def conv_transpose(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution; uneven paddings crop what came out too large."""
    axes = weight.dim() - 2
    strides, dilations = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    extra = list(node.get("output_padding", [0] * axes))
    pads = node.get("pads", [0] * 2 * axes)
    pairs = list(zip(pads[:axes], pads[axes:], strict=True))
    shape = node.get("output_shape", None)
    auto = node.get("auto_pad", "NOTSET")
    if shape is not None or auto.startswith("SAME"):
        pairs = []
        for i, k in enumerate(weight.shape[2:]):
            # Without a shape the output is the input times the stride.
            total = (k - 1) * dilations[i] + 1 - strides[i] + extra[i]
            if shape is not None:
                total += strides[i] * x.shape[2 + i] - shape[len(shape) - axes + i]
            extra[i] += max(0, -total)
            pairs.append(_halves(max(0, total), node))
    elif auto == "VALID":
        pairs = [(0, 0)] * axes
    even = all(a == b for a, b in pairs)
    padding = [a for a, _ in pairs] if even else [0] * axes
    legal = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if not legal:
        raise LeanganError("its output padding is larger than its stride")
    y = _TRANSPOSED[axes](x, weight, bias, strides, padding, extra, node.get("group", 1), dilations)
    if even:
        return y
    for axis, (front, back) in enumerate(pairs, 2):
        y = y.narrow(axis, front, y.shape[axis] - front - back)
    return y


def gemm(node: OnnxNode, a: Tensor, b: Tensor, c: Tensor | Host | None = None) -> Tensor:
    """Linear layer."""
    if node.get("transA", 0):
        a = a.t()
    weight = b if node.get("transB", 0) else b.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1:
        weight = weight * alpha
    bias = c.tensor() if isinstance(c, Host) else c
    if bias is not None and beta != 1:
        bias = bias * beta
    if bias is None or bias.dim() == 1:
        return F.linear(a, weight, bias)
    return F.linear(a, weight) + bias


def batch_norm(
    node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    """BatchNorm with the statistics that are stored."""
    if node.get("training_mode", 0):
        raise LeanganError("it is in training mode: export the model in eval mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def instance_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNorm."""
    return F.instance_norm(
        x, weight=scale, bias=bias, use_input_stats=True, eps=node.get("epsilon", 1e-5)
    )


def group_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNorm; before opset 21 it had one factor per group."""
    groups = node.attributes["num_groups"]
    if node.opset < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def layer_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """LayerNorm over the last axes."""
    axis = node.get("axis", -1) % x.dim()
    shape = [int(s) for s in x.shape[axis:]]
    return F.layer_norm(x, shape, scale.reshape(shape), bias, node.get("epsilon", 1e-5))


def prelu(node: OnnxNode, x: Tensor, slope: Tensor) -> Tensor:
    """PReLU; `OnnxModule` put the slopes in a row and says how many axes lie behind theirs."""
    behind = node.get("behind", None)
    if behind is not None and (slope.numel() == 1 or x.dim() - 2 == behind):
        return F.prelu(x, slope)
    if behind:
        slope = slope.reshape(-1, *[1] * behind)
    return torch.where(x < 0, x * slope, x)


def pool(node: OnnxNode, x: Tensor) -> Tensor:
    """Largest or mean value of each window."""
    kernel = node.attributes["kernel_shape"]
    axes = len(kernel)
    strides, dilations = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    pads = _window_pads(node, x, kernel, strides, dilations)
    ceil = bool(node.get("ceil_mode", 0))
    uneven = any(a is not b and a != b for a, b in pads)
    if node.kind == "MaxPool":
        if uneven:
            x, pads = _padded(x, pads, -math.inf), [(0, 0)] * axes
        return _MAX_POOLS[axes](x, kernel, strides, [a for a, _ in pads], dilations, ceil)
    counted = bool(node.get("count_include_pad", 0))
    if any(d != 1 for d in dilations) or (uneven and not counted):
        raise LeanganError("it averages uneven or dilated windows, which is not read")
    if uneven:
        x, pads = _padded(x, pads), [(0, 0)] * axes
    return _MEAN_POOLS[axes](x, kernel, strides, [a for a, _ in pads], ceil, counted)


def global_pool(node: OnnxNode, x: Tensor) -> Tensor:
    """Mean or largest value over all places."""
    axes = list(range(2, x.dim()))
    return x.amax(axes, True) if node.kind == "GlobalMaxPool" else x.mean(axes, True)


def pad(
    node: OnnxNode,
    x: Tensor,
    pads: Host | None = None,
    value: Host | None = None,
    axes: Host | None = None,
) -> Tensor:
    """Padding in any mode; a negative one crops."""
    numbers = pads.list() if pads is not None else list(node.attributes["pads"])
    where = [int(a) % x.dim() for a in axes.list()] if axes else list(range(x.dim()))
    pairs: list[tuple[Any, Any]] = [(0, 0)] * x.dim()
    for axis, front, back in zip(where, numbers[: len(where)], numbers[len(where) :], strict=True):
        pairs[axis] = (front, back)
    mode = _PAD_MODES[node.get("mode", "constant")]
    if mode == "constant":
        fill = value.item() if value is not None else node.get("value", 0.0)
        first = next((i for i, pair in enumerate(pairs) if pair != (0, 0)), None)
        return x if first is None else _padded(x, pairs[first:], float(fill))
    touched = [i for i, pair in enumerate(pairs) if pair != (0, 0)]
    if not touched:
        return x
    # PyTorch reflects the last axes only.
    count = min(3, max(x.dim() - 2, len(touched)))
    rest = [i for i in range(x.dim()) if i not in touched]
    order = rest + touched
    moved = x if order == sorted(order) or min(touched) >= x.dim() - count else x.permute(order)
    if moved is x:
        return F.pad(x, [n for pair in reversed(pairs[x.dim() - count :]) for n in pair], mode=mode)
    flat = [n for axis in reversed(order[x.dim() - count :]) for n in pairs[axis]]
    back = [order.index(i) for i in range(x.dim())]
    return F.pad(moved, flat, mode=mode).permute(back)


def resize(
    node: OnnxNode,
    x: Tensor,
    roi: Any = None,
    scales: Host | None = None,
    sizes: Host | None = None,
) -> Tensor:
    """Resampling, where PyTorch has the same: the comparison with ONNX Runtime is the proof."""
    if node.kind == "Upsample" or node.opset < 11:
        scales, sizes = roi if isinstance(roi, Host) else scales, None
    if scales is None and "scales" in node.attributes:
        scales = Host.of(node.attributes["scales"])
    where = [int(a) % x.dim() for a in node.get("axes", range(x.dim()))]
    factors: dict[int, Any] = {}
    targets: dict[int, Any] = {}
    if sizes is not None and sizes.values.size:
        if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise LeanganError("it keeps the aspect ratio, which is not read")
        for axis, size in zip(where, sizes.list(), strict=True):
            times = ratio(size, x.shape[axis])
            if times is not None and times > 1:
                factors[axis] = float(times)
            if not same(size, x.shape[axis]):
                targets[axis] = size
    elif scales is not None:
        for axis, factor in zip(where, scales.list(), strict=True):
            if factor != 1:
                factors[axis] = targets[axis] = factor
    else:
        raise LeanganError("it has neither scales nor sizes")
    if not targets:
        return x
    axes = sorted(targets)
    # Of all axes behind the channels, as PyTorch wants them; NHWC files have them elsewhere.
    last = list(range(2, x.dim()))
    order = list(range(x.dim()))
    if not set(axes) <= set(last) or len(last) > 3:
        others = [a for a in order if a not in axes]
        order = others[:1] + others[1:] + axes
        last = list(range(x.dim() - len(axes), x.dim()))
    moved = x if order == list(range(x.dim())) else x.permute(order)
    mode, corners = _resize_mode(node, factors.values(), len(last))
    named = [order[a] for a in last]
    if all(a in factors for a in targets):
        keywords: dict[str, Any] = {
            "scale_factor": [float(factors.get(a, 1.0)) for a in named],
            "recompute_scale_factor": False,
        }
    else:
        keywords = {"size": [targets.get(a, x.shape[a]) for a in named]}
    y = F.interpolate(moved, mode=mode, align_corners=corners, **keywords)
    return y if moved is x else y.permute([order.index(i) for i in range(x.dim())])


def _resize_mode(node: OnnxNode, factors: Iterable[float], axes: int) -> tuple[str, bool | None]:
    """PyTorch's mode, and whether corners are aligned."""
    old = node.kind == "Upsample" or node.opset < 11
    mode = node.get("mode", "nearest")
    where = node.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if node.get("exclude_outside", 0) or node.get("antialias", 0):
        raise LeanganError("it smooths or excludes what lies outside, which is not read")
    if mode == "nearest":
        rounding = node.get("nearest_mode", "floor" if old else "round_prefer_floor")
        factors = list(factors)
        simple = [_nearest_is_floor(int(f), where, rounding) for f in factors if f == int(f)]
        if factors and len(simple) == len(factors) and all(simple):
            return "nearest", None
        if where == "asymmetric" and rounding == "floor":
            return "nearest", None
        if where in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round"):
            return "nearest-exact", None
    elif mode in ("linear", "cubic"):
        cubic = node.get("cubic_coeff_a", -0.75)
        if where in ("half_pixel", "pytorch_half_pixel", "align_corners") and cubic == -0.75:
            if mode == "cubic" and axes != 2:
                raise LeanganError("it is cubic on other than two axes, which is not read")
            name = "bicubic" if mode == "cubic" else _LINEAR_MODES[axes]
            return name, where == "align_corners"
    raise LeanganError(
        f"it resamples in mode {mode} with {where}, which PyTorch cannot do in the same way"
    )


def _nearest_is_floor(factor: int, where: str, rounding: str) -> bool:
    """Whether each pixel is repeated `factor` times by this rule, as PyTorch does."""
    if not 1 <= factor <= 64:
        return False
    for out in range(8 * factor):
        if where == "asymmetric":
            place = out / factor
        elif where in ("half_pixel", "pytorch_half_pixel"):
            place = (out + 0.5) / factor - 0.5
        else:
            return False
        index = {
            "floor": math.floor(place),
            "ceil": math.ceil(place),
            "round_prefer_floor": math.ceil(place - 0.5),
            "round_prefer_ceil": math.floor(place + 0.5),
        }.get(rounding)
        if index is None or max(index, 0) != out // factor:
            return False
    return True


def depth_to_space(node: OnnxNode, x: Tensor) -> Tensor:
    """Pixel shuffle; the order DCR of TensorFlow sorts the channels first."""
    r = node.attributes["blocksize"]
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, r)
    channels = torch.arange(int(x.shape[1])).reshape(r * r, -1).t().reshape(-1)
    return F.pixel_shuffle(x.index_select(1, channels), r)


def space_to_depth(node: OnnxNode, x: Tensor) -> Tensor:
    """Pixel unshuffle, with its channels in TensorFlow's order."""
    r = node.attributes["blocksize"]
    y = F.pixel_unshuffle(x, r)
    return y.index_select(1, torch.arange(int(y.shape[1])).reshape(-1, r * r).t().reshape(-1))


def grid_sample(node: OnnxNode, x: Tensor, grid: Tensor) -> Tensor:
    """Sampling at given places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(m := node.get("mode", "bilinear"), m)
    padding = node.get("padding_mode", "zeros")
    return F.grid_sample(x, grid, mode, padding, bool(node.get("align_corners", 0)))


def quantize_linear(node: OnnxNode, x: Tensor) -> Tensor:
    """Rounding to 8 or 16 bits, one step for the whole tensor; `OnnxModule` read the numbers."""
    kind: torch.dtype = node.attributes["codes"]
    numbers = (node.attributes["step"], node.attributes["point"], *_CODES[kind], kind)
    return _q.quantize_per_tensor.default(x, *numbers)


def dequantize_linear(
    node: OnnxNode, x: Tensor, steps: Tensor | None = None, points: Tensor | None = None
) -> Tensor:
    """Back to float, with one step or (of a weight) one for each channel."""
    if steps is not None:
        axis = node.get("axis", 1) % x.dim()
        return _q.dequantize_per_channel.default(x, steps, points, axis, *_CODES[x.dtype], x.dtype)
    numbers = (node.attributes["step"], node.attributes["point"], *_CODES[x.dtype], x.dtype)
    return _q.dequantize_per_tensor.default(x, *numbers)
