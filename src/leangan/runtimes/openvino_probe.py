"""What OpenVINO's integer kernels do on this machine, seen on a few convolutions."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

_SIZE, _CHANNELS, _LAYERS = 64, 64, 6
_ROUNDS, _WARM = 15, 3
_STEP = 1e-3
"""Of the weights."""


@functools.cache
def zero_point_cost(threads: int) -> float:
    """How many times longer convolutions take whose 8-bit inputs have a zero point.

    With AMX they were seen to double the time. Measuring takes half a second.
    """
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (_CHANNELS, _CHANNELS, 3, 3))
    image = rng.random((1, _CHANNELS, _SIZE, _SIZE), np.float32)
    affine, signed = (_session(low, codes, image, _LAYERS, threads) for low in (-0.25, -128 / 127))
    ratios = []
    for turn in range(_WARM + _ROUNDS):
        ratio = _once(affine) / _once(signed)
        if turn >= _WARM:
            ratios.append(ratio)
    return float(np.median(ratios))


@functools.cache
def saturates() -> bool:
    """Whether large sums are clipped, as x86 kernels do without VNNI.

    They add the products of two inputs of 8 bits and two weights in 16 bits, which holds no more
    than half of the largest such sum. Weights of 7 bits keep below that.
    """
    codes = np.full((_CHANNELS, _CHANNELS, 3, 3), 127)
    image = np.ones((1, _CHANNELS, 8, 8), np.float32)
    request = _session(0.0, codes, image, 1, threads=1)
    request.infer()
    whole = codes[0].sum() * _STEP
    return bool(request.get_output_tensor().data.max() < 0.9 * whole)


def _once(request: Any) -> float:
    start = time.perf_counter()
    request.infer()
    return time.perf_counter() - start


def _session(low: float, codes: np.ndarray, image: np.ndarray, layers: int, threads: int) -> Any:
    """Convolutions of 3x3 whose inputs are rounded to 256 levels over [low, 1]."""
    import openvino as ov
    from openvino import opset13 as ops

    def constant(values: object) -> Any:
        return ops.constant(np.asarray(values, np.float32))

    port = ops.parameter(image.shape, np.float32)
    x = port
    ends = constant(low), constant(1.0)
    for _ in range(layers):
        x = ops.fake_quantize(x, *ends, *ends, 256)
        weight = ops.convert(ops.constant(codes.astype(np.int8)), "f32")
        weight = ops.multiply(weight, constant(_STEP))
        x = ops.convolution(x, weight, [1, 1], [1, 1], [1, 1], [1, 1])
        x = ops.prelu(x, constant([0.2]))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    model = ov.Model([x], [port])
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(image))
    return request
