"""Read a network in ncnn's form: a text `.param` of layers and a `.bin` of their weights.

The layout is ncnn's own (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and
operation-param-weight-table). Only the layers that image generators use are known; every number of
the file is checked against the bytes that are really there before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leangan.errors import LeanganError

MAGIC = "7767517"
_FLOAT16 = 0x01306B47
_FLOAT32 = (0x00000000, 0x0002C056)
_MOST_LAYERS = 100_000
_MOST_BYTES = 16 * 2**20  # of a .param; the largest known is under 1 MB
_MOST_SIZE = 4096  # of a kernel, stride, padding: far above any real one

Value = float | tuple[float, ...]


@dataclass(frozen=True)
class NcnnLayer:
    """One line of the `.param`, with its weights."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[int, Value]
    """ncnn's numbered settings; arrays (keys -23300 - k in the file) under k."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """`weight` [out, in / groups, kh, kw] and `bias` [out], or `slope` [channels]; float32."""

    def number(self, key: int, default: float) -> float:
        """The setting `key`, finite."""
        value = self.values.get(key, default)
        if isinstance(value, tuple) or not math.isfinite(value):
            raise LeanganError(f"Layer {self.name!r}: setting {key} is no usable number.")
        return value

    def size(self, key: int, default: int, *, least: int = 0, most: int = _MOST_SIZE) -> int:
        """The setting `key` as a whole number within bounds."""
        value = self.number(key, default)
        if value != int(value) or not least <= value <= most:
            raise LeanganError(
                f"Layer {self.name!r}: setting {key} is {value:g}, not between {least} and {most}."
            )
        return int(value)

    def array(self, key: int) -> tuple[float, ...]:
        """The array setting `key`, empty where the file has none."""
        value = self.values.get(key, ())
        return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class NcnnModel:
    """The layers in the order in which they run."""

    layers: tuple[NcnnLayer, ...]


def read_ncnn(param: Path, bin: Path) -> NcnnModel:
    """Read a `.param` and its `.bin`; float16 weights become float32.

    Raises:
        LeanganError: a file is missing, damaged, of another kind, or holds a layer or a weight
            form (int8, look-up table) that is not known; the layer is named.
    """
    lines = _lines(param)
    try:
        data = bin.read_bytes()
    except OSError as error:
        raise LeanganError(
            f"{param.name} needs its weights {bin.name} beside it: {error.strerror}."
        ) from error
    reader = _Weights(data, bin)
    layers = tuple(_with_weights(_parse(line, param), reader) for line in lines)
    if reader.position != len(data):
        raise LeanganError(
            f"{bin} holds {len(data)} bytes, the layers of {param.name} use {reader.position}: "
            "the two files do not belong together."
        )
    return NcnnModel(layers)


def _lines(param: Path) -> list[str]:
    """The layer lines of a `.param`, their number checked."""
    try:
        if param.stat().st_size > _MOST_BYTES:
            raise LeanganError(f"{param} is too large for an ncnn .param file.")
        lines = param.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise LeanganError(f"{param} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise LeanganError(f"{param} is no ncnn .param file: it is not text.") from error
    lines = [line for line in lines if line.strip()]
    if not lines or lines[0].strip() != MAGIC:
        raise LeanganError(f"{param} is no ncnn .param file: its first line is not {MAGIC}.")
    counts = lines[1].split() if len(lines) > 1 else []
    if not counts or not counts[0].isdecimal() or int(counts[0]) > _MOST_LAYERS:
        raise LeanganError(f"{param} is damaged: its second line does not count the layers.")
    if int(counts[0]) != len(lines) - 2 or len(lines) == 2:
        raise LeanganError(
            f"{param} is damaged: it announces {counts[0]} layers and has {len(lines) - 2}."
        )
    return lines[2:]


def _parse(line: str, param: Path) -> NcnnLayer:
    try:
        kind, name, ins, outs, *rest = line.split()
        n_in, n_out = int(ins), int(outs)
        if min(n_in, n_out) < 0 or n_in + n_out > len(rest):
            raise ValueError("the number of blobs is wrong")
        values: dict[int, Value] = {}
        for setting in rest[n_in + n_out :]:
            key, text = setting.split("=", 1)
            number = int(key)
            if number <= -23300:
                count, *items = text.split(",")
                if int(count) != len(items):
                    raise ValueError("an array has another length than it says")
                values[-23300 - number] = tuple(float(item) for item in items)
            else:
                values[number] = float(text)
    except ValueError as error:
        raise LeanganError(f"{param} is damaged at {line[:60]!r}: {error}.") from error
    inputs, outputs = tuple(rest[:n_in]), tuple(rest[n_in : n_in + n_out])
    return NcnnLayer(kind, name, inputs, outputs, values)


@dataclass
class _Weights:
    """The `.bin`, read from front to back."""

    data: bytes
    path: Path
    position: int = 0

    def floats(self, count: int, layer: str, *, flagged: bool) -> Tensor:
        """The next `count` numbers; a flagged array begins with four bytes that tell its form."""
        form = _FLOAT32[0]
        if flagged:
            (form,) = struct.unpack("<I", self._take(4, layer))
        if form == _FLOAT16:
            raw = self._take(-(-count * 2 // 4) * 4, layer)  # padded to 4 bytes
            array = np.frombuffer(raw, "<f2", count).astype(np.float32)
        elif form in _FLOAT32:
            array = np.frombuffer(self._take(count * 4, layer), "<f4").astype(np.float32)
        else:
            raise LeanganError(
                f"{self.path}: the weights of layer {layer!r} are stored in form 0x{form:08X}; "
                "only float32 and float16 are read. Convert the model without quantization."
            )
        if not np.isfinite(array).all():
            raise LeanganError(f"{self.path}: layer {layer!r} has weights that are not finite.")
        return torch.from_numpy(array)

    def _take(self, count: int, layer: str) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise LeanganError(f"{self.path} is cut short: it ends inside of layer {layer!r}.")
        raw, self.position = self.data[self.position : end], end
        return raw


def _with_weights(layer: NcnnLayer, reader: _Weights) -> NcnnLayer:
    """The layer with what its kind keeps in the `.bin`."""
    weights: dict[str, Tensor] = {}
    if layer.kind in ("Convolution", "ConvolutionDepthWise"):
        if layer.size(8, 0):
            raise LeanganError(f"Layer {layer.name!r} is int8; convert the model in float.")
        out = layer.size(0, 0, least=1, most=2**20)
        kw = layer.size(1, 0, least=1)
        kh = layer.size(11, kw, least=1)
        groups = layer.size(7, 1, least=1, most=2**20)
        count = layer.size(6, 0, least=1, most=2**31)
        if out % groups or count % (out * kw * kh):
            raise LeanganError(
                f"Layer {layer.name!r}: {count} weights do not make {out} kernels of {kh}x{kw}."
            )
        flat = reader.floats(count, layer.name, flagged=True)
        weights["weight"] = flat.reshape(out, -1, kh, kw)
        if layer.size(5, 0, most=1):
            weights["bias"] = reader.floats(out, layer.name, flagged=False)
    elif layer.kind == "PReLU":
        count = layer.size(0, 0, least=1, most=2**20)
        weights["slope"] = reader.floats(count, layer.name, flagged=False)
    return NcnnLayer(layer.kind, layer.name, layer.inputs, layer.outputs, layer.values, weights)
