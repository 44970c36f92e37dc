"""What OpenVINO's integer kernels like on this machine, measured on a few convolutions."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

_SIZE, _CHANNELS, _LAYERS = 64, 64, 6
_ROUNDS, _WARM = 15, 3


@functools.cache
def zero_point_cost(threads: int) -> float:
    """How many times longer convolutions take whose 8-bit inputs have a zero point.

    With AMX they were seen to double the time. Measuring takes half a second.
    """
    affine, signed = (_session(low, threads) for low in (-0.25, -128 / 127))
    ratios = []
    for turn in range(_WARM + _ROUNDS):
        ratio = _once(affine) / _once(signed)
        if turn >= _WARM:
            ratios.append(ratio)
    return float(np.median(ratios))


def _once(request: Any) -> float:
    start = time.perf_counter()
    request.infer()
    return time.perf_counter() - start


def _session(low: float, threads: int) -> Any:
    """Convolutions whose inputs are rounded to 256 levels over [low, 1]."""
    import openvino as ov
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)

    def constant(values: object) -> Any:
        return ops.constant(np.asarray(values, np.float32))

    shape = [1, _CHANNELS, _SIZE, _SIZE]
    port = ops.parameter(shape, np.float32)
    x = port
    ends = constant(low), constant(1.0)
    for _ in range(_LAYERS):
        x = ops.fake_quantize(x, *ends, *ends, 256)
        codes = rng.integers(-127, 128, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.int8)
        weight = ops.multiply(ops.convert(ops.constant(codes), "f32"), constant(1e-3))
        x = ops.convolution(x, weight, [1, 1], [1, 1], [1, 1], [1, 1])
        x = ops.prelu(x, constant([0.2]))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    model = ov.Model([x], [port])
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(rng.random(shape, np.float32)))
    return request
