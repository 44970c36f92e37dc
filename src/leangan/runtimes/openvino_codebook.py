"""Small weights in OpenVINO's IR, as onnx_codebook.py and onnx_codes.py have them in ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from leangan.runtimes.few_values import Indexed, indexed, pack
from leangan.runtimes.onnx_codes import Kernel, fits_4_bits


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


def pack_constants(model: Any, kernels: Mapping[str, Kernel]) -> int:
    """Store codes of weights in 4 bits where they fit, and have the plugin unpack them on loading.

    The plugin leaves a Convert to float in front of a Multiply alone, for integer kernels to take
    it in, and gives linear layers one that quantizes even float inputs. For layers that compute in
    float, a Convert before it hides it, and both are folded.

    Args:
        model: an openvino.Model, changed in place.
        kernels: `weight_codes` of the ONNX file that it was read from.

    Returns:
        The number of constants changed.
    """
    import openvino as ov
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "Constant" or name not in kernels:
            continue
        readers = node.output(0).get_target_inputs()
        stored, narrow = node, fits_4_bits(node.data)
        if narrow:
            stored = _constant(pack(node.data), node.data.shape, ov.Type.i4)
            stored.set_friendly_name(name)
        if narrow or kernels[name] != "integer":
            wide = ops.convert(stored, "i8" if kernels[name] == "integer" else "i32")
            for reader in readers:
                reader.replace_source_output(wide.output(0))
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
