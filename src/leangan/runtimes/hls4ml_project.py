"""Fixed-point operations as an hls4ml project: C++ sources for high-level synthesis."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leangan.files import atomic_folder
from leangan.runtimes.fixed.network import (
    Cast,
    Framed,
    Input,
    Operation,
    Rectified,
    Repeated,
    Reshaped,
    Scaled,
    Stored,
    Sum,
    Table,
    Transposed,
    Weighted,
    compute,
)

NAME = "generator"
"""Of the top function and of its files."""
MAIN = "build_prj.tcl"
"""The script that the vendor's tool runs."""
MULTIPLIERS = 1024
"""The most that one layer gets; larger layers use each of theirs several times."""

Layer = dict[str, Any]


def write_project(
    network: Sequence[Operation], folder: Path, notes: str, trials: np.ndarray
) -> tuple[Path, ...]:
    """Write the sources, the weights, the scripts, a test bench with its data, and a README.

    Args:
        network: the first operation the input, the last the output.
        folder: for the files.
        notes: the text of README.md.
        trials: [samples, *shape of the input], what the test bench puts in.

    Returns:
        All files; first the script that synthesizes them.
    """
    results = compute(network, trials)
    # The vector that leaves the design has the order of the map.
    while isinstance(network[-1], Reshaped):
        network = network[:-1]
    sources = {operation.name: operation for operation in network}
    layers = [
        {
            "name": operation.name,
            "inputs": list(operation.inputs),
            "data_format": "channels_last",
            **_layer(operation, [sources[name] for name in operation.inputs]),
        }
        for operation in network
    ]
    config = {operation.name: _config(operation) for operation in network}
    with atomic_folder(folder) as made:
        _generate(layers, config, made, stream=any(len(o.shape) > 1 for o in network))
        for name, values in (("input_features", trials), ("output_predictions", results)):
            rows = values.reshape(len(trials), -1)
            np.savetxt(made / "tb_data" / f"tb_{name}.dat", rows, fmt="%.9g")
        (made / "README.md").write_text(notes, encoding="utf-8")
        names = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    names.sort(key=lambda name: name != Path(MAIN))
    return tuple(folder / name for name in names)


def _generate(layers: list[Layer], config: dict[str, Any], folder: Path, *, stream: bool) -> None:
    from hls4ml.backends import get_backend
    from hls4ml.model.graph import ModelGraph

    backend = get_backend("Vitis")
    # Maps go pixel by pixel: all of one in registers, the other way, is more than an FPGA has.
    whole = backend.create_initial_config(io_type="io_stream" if stream else "io_parallel")
    whole |= {"OutputDir": str(folder), "ProjectName": NAME, "Backend": "Vitis", "Stamp": NAME}
    whole["HLSConfig"] = {
        "Model": {
            "Precision": {"default": "ap_fixed<16,6>"},
            "ReuseFactor": 1,
            "Strategy": "Resource",
        },
        "LayerName": config,
    }
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        graph = ModelGraph.from_layer_list(whole, layers)
        # Written directly, since its own way stamps the files with a random number.
        backend.writer.write_hls(graph)
    settings = folder / "hls4ml_config.yml"
    settings.write_text(settings.read_text("utf-8").replace(str(folder), "."), encoding="utf-8")


def _layer(operation: Operation, inputs: list[Operation]) -> Layer:
    """The attributes by which hls4ml knows an operation."""
    match operation:
        case Input():
            return {"class_name": "InputLayer", "input_shape": list(operation.shape)}
        case Weighted():
            return _weighted(operation, inputs[0])
        case Scaled():
            return {
                "class_name": "BatchNormalization",
                "n_in": math.prod(operation.shape),
                "n_filt": operation.shape[-1] if len(operation.shape) > 1 else -1,
                "scale_data": operation.scale.values,
                "bias_data": operation.bias.values,
            }
        case Rectified(slope=None):
            return {"class_name": "Activation", "activation": "relu"}
        case Rectified(slope=Stored() as slope):
            return {
                "class_name": "LeakyReLU",
                "activation": "leakyrelu",
                "activ_param": float(slope.values.item()),
            }
        case Cast():
            return {"class_name": "Activation", "activation": "linear"}
        case Table():
            return {
                "class_name": "UnaryLUT",
                "activation": "unary_lut",
                "table_data": operation.table.values,
            }
        case Sum():
            return {"class_name": "Merge", "op": "add"}
        case Reshaped():
            return {"class_name": "Reshape", "target_shape": list(operation.shape)}
        case Transposed():
            return {"class_name": "Transpose", "perm": list(operation.order)}
        case Repeated():
            return {"class_name": "Resize", "algorithm": "nearest", **_map(operation, inputs[0])}
        case Framed(sides=(top, bottom, left, right)):
            crop = min(operation.sides) < 0
            word = "crop" if crop else "pad"
            sides = {"top": top, "bottom": bottom, "left": left, "right": right}
            return {
                "class_name": "Cropping2D" if crop else "ZeroPadding2D",
                **{f"{word}_{side}": abs(size) for side, size in sides.items()},
                **_map(operation, inputs[0]),
            }
    raise AssertionError(type(operation))


def _map(operation: Operation, x: Operation) -> Layer:
    height, width, channels = x.shape
    out_height, out_width, _ = operation.shape
    return {
        "in_height": height,
        "in_width": width,
        "n_chan": channels,
        "out_height": out_height,
        "out_width": out_width,
    }


def _weighted(operation: Weighted, x: Operation) -> Layer:
    data = {"weight_data": operation.weight.values, "bias_data": operation.bias.values}
    if operation.weight.codes.ndim == 2:
        rows, outputs = operation.multiplied
        return {"class_name": "Dense", "n_in": rows, "n_out": outputs, **data}
    rows, columns, _, outputs = operation.weight.codes.shape
    (stride_rows, stride_columns), (pad_rows, pad_columns) = operation.stride, operation.padding
    return {
        "class_name": "Conv2D",
        "n_filt": outputs,
        "filt_height": rows,
        "filt_width": columns,
        "stride_height": stride_rows,
        "stride_width": stride_columns,
        "pad_top": pad_rows,
        "pad_bottom": pad_rows,
        "pad_left": pad_columns,
        "pad_right": pad_columns,
        **_map(operation, x),
        **data,
    }


def _config(operation: Operation) -> dict[str, Any]:
    """The types of a layer's numbers, and how often it uses each multiplier."""
    form = operation.format
    # Rounding and clipping cost logic, so they are left out where a result is always exact.
    exact = isinstance(operation, Table) or (
        isinstance(operation, Weighted) and form == operation.accumulator
    )
    precision = {"result": form.exact_type if exact else form.type}
    match operation:
        case Weighted():
            precision |= {
                "weight": operation.weight.format.exact_type,
                "bias": operation.bias.format.exact_type,
                "accum": operation.accumulator.exact_type,
            }
        case Scaled():
            precision |= {
                "scale": operation.scale.format.exact_type,
                "bias": operation.bias.format.exact_type,
            }
        case Rectified(slope=Stored() as slope):
            precision["param"] = slope.format.exact_type
        case Table():
            precision["table"] = operation.table.format.exact_type
    return {"Precision": precision, "ReuseFactor": reuse(operation)}


def reuse(operation: Operation) -> int:
    """How often a multiplier is used for one vector or pixel, so that the layer needs few enough.

    hls4ml takes divisors of the number of inputs, and that number times divisors of the outputs.
    """
    if isinstance(operation, Weighted):
        rows, outputs = operation.multiplied
        choices = _divisors(rows) + [rows * d for d in _divisors(outputs)]
        return next(n for n in choices if rows * outputs // n <= MULTIPLIERS or n == choices[-1])
    if isinstance(operation, Scaled):
        return -(-operation.shape[-1] // MULTIPLIERS)
    return 1


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def counted(network: Sequence[Operation]) -> dict[str, Any]:
    """What the design needs at the least, counted from its layers and not synthesized.

    Returns:
        JSON values: "multipliers", "weight_bits" (weights, biases, scales) and "table_bits"
        (each table once) in all, and "layers" with those of each.
    """
    layers: list[dict[str, Any]] = []
    for operation in network:
        stored: list[Stored] = []
        used = 0
        match operation:
            case Weighted():
                stored = [operation.weight, operation.bias]
                used = math.prod(operation.multiplied) // reuse(operation)
            case Scaled():
                stored = [operation.scale, operation.bias]
                used = -(-operation.shape[-1] // reuse(operation))
            case Table():
                stored = [operation.table]
            case _:
                continue
        bits = sum(int(np.size(s.codes)) * s.format.bits for s in stored)
        layers.append(
            {
                "name": operation.name,
                "multipliers": used,
                "reuse": reuse(operation),
                "weight_bits": 0 if isinstance(operation, Table) else bits,
                "table_bits": bits if isinstance(operation, Table) else 0,
            }
        )
    keys = ("multipliers", "weight_bits", "table_bits")
    return {**{key: sum(layer[key] for layer in layers) for key in keys}, "layers": layers}
