"""Run the layers of an ncnn network as a plain nn.Module, fit for torch.export."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.errors import LeanganError
from leangan.sources.ncnn import NcnnLayer, NcnnModel

Run = Callable[..., Tensor]

_BINARY: dict[int, Callable[[Tensor, Tensor | float], Tensor]] = {
    0: torch.add,
    1: torch.sub,
    2: torch.mul,
    3: torch.div,
}


class NcnnModule(nn.Module):
    """Walks the layers; each blob is [N, C, H, W].

    Args:
        model: what `read_ncnn` read.
        outputs: names of the blobs to return, all in one tuple when there are several; without
            them the blobs that no layer reads.

    Raises:
        LeanganError: a layer is of an unknown kind, or reads a blob that nothing wrote.
    """

    def __init__(self, model: NcnnModel, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        inputs = [b for layer in model.layers if layer.kind == "Input" for b in layer.outputs]
        if len(inputs) != 1:
            raise LeanganError(f"The ncnn network has {len(inputs)} inputs; only one is read yet.")
        self.input = inputs[0]
        self.plan: list[tuple[Run, tuple[str, ...], tuple[str, ...]]] = []
        written: set[str] = set()
        read: set[str] = set()
        needed = _needed(model, outputs)
        for layer in needed:
            missing = [blob for blob in layer.inputs if blob not in written]
            if missing:
                raise LeanganError(f"Layer {layer.name!r} reads {missing[0]!r}, which nobody made.")
            if layer.kind != "Input":
                if not (layer.inputs and layer.outputs):
                    raise LeanganError(f"Layer {layer.name!r} has no input or no output.")
                self.plan.append((self._runner(layer), layer.inputs, layer.outputs))
            read.update(layer.inputs)
            written.update(layer.outputs)
        unread = [b for layer in needed for b in layer.outputs if b not in read]
        self.outputs = tuple(outputs) or tuple(unread)
        unknown = [blob for blob in self.outputs if blob not in written]
        if unknown or not self.outputs:
            raise LeanganError(f"The ncnn network has no output {', '.join(unknown) or 'at all'}.")

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One tensor [N, C, H, W] -> one tensor, or a tuple of the outputs."""
        blobs = {self.input: input}
        for run, reads, writes in self.plan:
            value = run(*(blobs[name] for name in reads))
            blobs.update(dict.fromkeys(writes, value))
        results = tuple(blobs[name] for name in self.outputs)
        return results if len(results) > 1 else results[0]

    def _runner(self, layer: NcnnLayer) -> Run:
        maker = _MAKERS.get(layer.kind)
        if maker is None:
            raise LeanganError(
                f"Layer {layer.name!r} is of kind {layer.kind}, which is not read yet; "
                f"known are {', '.join(sorted(_MAKERS))}."
            )
        made = maker(layer)
        if isinstance(made, nn.Module):
            name = re.sub(r"\W", "_", layer.name)
            while name in self.layers or hasattr(nn.ModuleDict, name):
                name += "_"
            self.layers[name] = made
        return made


def _needed(model: NcnnModel, outputs: Sequence[str]) -> list[NcnnLayer]:
    """The layers that the outputs depend on; all where none are named."""
    if not outputs:
        return list(model.layers)
    wanted, kept = set(outputs), []
    for layer in reversed(model.layers):
        if wanted.intersection(layer.outputs):
            wanted.update(layer.inputs)
            kept.append(layer)
    return kept[::-1]


def _convolution(layer: NcnnLayer) -> Run:
    weight, bias = layer.weights["weight"], layer.weights.get("bias")
    groups = layer.size(7, 1, least=1, most=2**20)
    stride_w, dilation_w = layer.size(3, 1, least=1), layer.size(2, 1, least=1)
    left = layer.size(4, 0)
    right, top = layer.size(15, left), layer.size(14, left)
    bottom = layer.size(16, top)
    if (left, top) != (right, bottom) or layer.number(18, 0.0):
        raise LeanganError(f"Layer {layer.name!r} pads unevenly, which is not read yet.")
    convolution = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=(layer.size(13, stride_w, least=1), stride_w),
        padding=(top, left),
        dilation=(layer.size(12, dilation_w, least=1), dilation_w),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    convolution.load_state_dict(state, assign=True)
    activation = _activation(layer)
    return convolution if activation is None else nn.Sequential(convolution, activation)


def _activation(layer: NcnnLayer) -> nn.Module | None:
    """The activation that ncnn fused into a convolution."""
    kind = layer.size(9, 0)
    values = layer.array(10)
    if kind == 0:
        return None
    if kind == 1:
        return nn.ReLU()
    if kind == 2 and len(values) == 1:
        return nn.LeakyReLU(values[0])
    if kind == 3 and len(values) == 2 and values[0] <= values[1]:
        return nn.Hardtanh(values[0], values[1])
    if kind == 4:
        return nn.Sigmoid()
    raise LeanganError(f"Layer {layer.name!r} has a fused activation {kind} that is not read yet.")


def _prelu(layer: NcnnLayer) -> Run:
    slope = layer.weights["slope"]
    made = nn.PReLU(len(slope), device="meta")
    made.load_state_dict({"weight": slope}, assign=True)
    return made


def _relu(layer: NcnnLayer) -> Run:
    slope = layer.number(0, 0.0)
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _concat(layer: NcnnLayer) -> Run:
    axis = layer.size(0, 0, most=2) + 1  # ncnn does not count the batch axis
    return lambda *blobs: torch.cat(blobs, axis)


def _eltwise(layer: NcnnLayer) -> Run:
    kind, weights = layer.size(0, 0, most=2), layer.array(1)
    if kind == 1 and weights and len(weights) != len(layer.inputs):
        raise LeanganError(f"Layer {layer.name!r} has {len(weights)} factors for its inputs.")

    def run(*blobs: Tensor) -> Tensor:
        if kind == 1 and weights:
            blobs = tuple(b if w == 1 else b * w for b, w in zip(blobs, weights, strict=True))
        total = blobs[0]
        for blob in blobs[1:]:
            total = (torch.mul, torch.add, torch.maximum)[kind](total, blob)
        return total

    return run


def _binary(layer: NcnnLayer) -> Run:
    operator = _BINARY.get(layer.size(0, 0))
    scalar = layer.number(2, 0.0) if layer.size(1, 0, most=1) else None
    if operator is None or len(layer.inputs) != (2 if scalar is None else 1):
        raise LeanganError(f"Layer {layer.name!r}: this BinaryOp is not read yet.")
    return operator if scalar is None else lambda blob: operator(blob, scalar)


def _interp(layer: NcnnLayer) -> Run:
    kind = layer.size(0, 0)
    modes = {1: "nearest", 2: "bilinear", 3: "bicubic"}
    scale = (layer.number(1, 1.0), layer.number(2, 1.0))
    fixed = layer.size(3, 0) or layer.size(4, 0) or layer.size(6, 0) or len(layer.inputs) != 1
    if kind not in modes or fixed or not all(1 / 64 <= s <= 64 for s in scale):
        raise LeanganError(f"Layer {layer.name!r}: this Interp is not read yet.")
    mode, corners = modes[kind], None if kind == 1 else False
    return lambda blob: F.interpolate(
        blob, scale_factor=scale, mode=mode, align_corners=corners, recompute_scale_factor=False
    )


def _pooling(layer: NcnnLayer) -> Run:
    average = layer.size(0, 0, most=1) == 1
    if layer.size(4, 0, most=1):
        return (
            (lambda b: b.mean((2, 3), keepdim=True))
            if average
            else (lambda b: b.amax((2, 3), True))
        )
    kernel, stride, pad = layer.size(1, 1, least=1), layer.size(2, 1, least=1), layer.size(3, 0)
    same_sides = all(layer.size(key, pad) == pad for key in (13, 14, 15))
    mode = layer.size(5, 0)
    square = layer.size(11, kernel) == kernel and layer.size(12, stride) == stride
    if mode > 1 or not same_sides or not square or 2 * pad > kernel or (average and mode == 0):
        raise LeanganError(f"Layer {layer.name!r}: this Pooling is not read yet.")
    if average:
        return nn.AvgPool2d(kernel, stride, pad, count_include_pad=bool(layer.size(6, 0)))
    return nn.MaxPool2d(kernel, stride, pad, ceil_mode=mode == 0)  # Caffe's rounding is ncnn's


def _shuffle(layer: NcnnLayer) -> Run:
    if layer.size(1, 0):
        raise LeanganError(f"Layer {layer.name!r}: this PixelShuffle order is not read yet.")
    return nn.PixelShuffle(layer.size(0, 1, least=1, most=64))


def _same(_: NcnnLayer) -> Run:
    return lambda blob: blob


def _softmax(layer: NcnnLayer) -> Run:
    return nn.Softmax(layer.size(0, 0, most=2) + 1)


_MAKERS: dict[str, Callable[[NcnnLayer], Run]] = {
    "BinaryOp": _binary,
    "Concat": _concat,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Dropout": _same,
    "Eltwise": _eltwise,
    "Interp": _interp,
    "Noop": _same,
    "PReLU": _prelu,
    "PixelShuffle": _shuffle,
    "Pooling": _pooling,
    "ReLU": _relu,
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Softmax": _softmax,
    "Split": _same,
    "TanH": lambda _: nn.Tanh(),
}
