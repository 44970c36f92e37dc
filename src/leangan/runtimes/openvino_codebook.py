"""Weights of few values in OpenVINO's IR: tables and packed indices, as in onnx_codebook.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from leangan.runtimes.few_values import Indexed, indexed, pack


def index_constants(model: Any) -> int:
    """Store float constants of few different values as tables and indices where that is smaller.

    The plugin folds them to the same floats when it compiles.

    Args:
        model: an openvino.Model, changed in place.

    Returns:
        The number of constants.
    """
    import openvino as ov
    from openvino import opset13 as ops

    axis = ops.constant(np.int32(0))
    offsets: dict[tuple[bytes, tuple[int, ...]], Any] = {}
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        found = indexed(node.data)
        if found is None:
            continue
        place = ops.convert(_indices(found), "i32")
        if found.offsets is not None:  # layers of one form share them: each takes text
            key = found.offsets.tobytes(), found.offsets.shape
            place = ops.add(place, offsets.setdefault(key, ops.constant(found.offsets)))
        expanded = ops.gather(_table(found), place, axis)
        expanded.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(expanded.output(0))
        count += 1
    return count


def _indices(found: Indexed) -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    if found.bits == 8:
        return ops.constant(found.indices)
    return _constant(pack(found.indices), found.indices.shape, ov.Type.u4)


def _table(found: Indexed) -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    half = found.half
    if half is None:
        return ops.constant(found.table)
    return ops.convert(_constant(half, half.shape, ov.Type.bf16), "f32")


def _constant(raw: np.ndarray, shape: tuple[int, ...], kind: Any) -> Any:
    """Of a type that numpy does not have; `raw` is copied."""
    import openvino as ov
    from openvino import opset13 as ops

    return ops.constant(ov.Tensor(raw, shape, kind), shared_memory=False)
