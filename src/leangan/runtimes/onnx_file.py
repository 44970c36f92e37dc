"""A Generator as an ONNX file: the form that ONNX Runtime, OpenVINO and most others read."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from leangan.errors import LeanganError
from leangan.files import atomic
from leangan.runtimes.layer_names import name_layers
from leangan.runtimes.onnx_fuse import fuse_depth_to_space

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

    from leangan.generator import Generator, Port, Signature

OPSET = 20
"""Has all that generators need (3-D resizing, Gelu, GridSample), and every runtime reads it."""
_OPSET_OF_KINDS = 21
"""The first with integers of 4 bits, and with 16 bits in QuantizeLinear. Of the operators that
OPSET's exporter writes, none has another meaning in it."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What the exporter's messages hold for terminals."""
_KEPT = 2
_MADE: WeakKeyDictionary[ExportedProgram, tuple[Signature, onnx.ModelProto]] = WeakKeyDictionary()
"""What the last programs were exported as: the exporter takes seconds, and several runtimes and
precisions want the same."""
_AXES = {"N": "batch", "C": "channels", "H": "height", "W": "width", "T": "time"}


def write_onnx(generator: Generator, path: Path) -> Path:
    """Write `generator` as one ONNX file with readable names and all of its free sizes.

    A quantized program becomes QuantizeLinear and DequantizeLinear around float operators (the
    QDQ form), with its int8 weights stored as int8.

    Args:
        generator: float or quantized.
        path: where to write; replaced atomically.

    Returns:
        `path`.

    Raises:
        LeanganError: an operator has no ONNX form, or the file would have lost a free size.
    """
    return save_onnx(to_onnx(generator), path)


def save_onnx(model: onnx.ModelProto, path: Path) -> Path:
    """Write the model with its weights inside, replacing `path` atomically."""
    import onnx

    with atomic(path) as temporary:
        onnx.save_model(model, str(temporary))
    return path


def to_onnx(generator: Generator) -> onnx.ModelProto:
    """As `write_onnx`, in memory: a model of the caller's own."""
    import onnx

    signature, made = _MADE.get(generator.program, (None, None))
    if made is None or signature != generator.signature:
        made = _made(generator)
        _MADE[generator.program] = generator.signature, made
        while len(_MADE) > _KEPT:
            del _MADE[next(iter(_MADE))]
    model = onnx.ModelProto()
    model.CopyFrom(made)
    return model


def _made(generator: Generator) -> onnx.ModelProto:
    from leangan.graph.real_parts import complex_as_real

    generator = complex_as_real(generator)
    model = _export(generator)
    name_layers(model, generator)
    fuse_depth_to_space(model)  # while sizes still have the names that it compares
    inputs, outputs = generator.signature.inputs, generator.signature.outputs
    for port, value in zip(inputs, model.graph.input, strict=True):
        _check_sizes(generator, port, value)
        _name_sizes(port, value, "")
    for port, value in zip(outputs, model.graph.output, strict=True):
        _name_sizes(port, value, "output_")
    _forget_origin(model)
    declare_opset(model)
    return model


def declare_opset(model: onnx.ModelProto) -> None:
    """Raise the opset where a stored tensor is of a kind that OPSET does not have."""
    from onnx import TensorProto as Kind

    newer = (Kind.INT4, Kind.UINT4, Kind.INT16, Kind.UINT16)
    if any(tensor.data_type in newer for tensor in model.graph.initializer):
        for opset in model.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, _OPSET_OF_KINDS)


def port_names(generator: Generator) -> tuple[list[str], list[str]]:
    """Names of the ONNX inputs and outputs: the signature's, made different where they clash."""
    inputs = [port.name for port in generator.signature.inputs]
    outputs: list[str] = []
    for port in generator.signature.outputs:
        name = port.name
        while name in inputs or name in outputs:
            name = f"output_{name}"
        outputs.append(name)
    return inputs, outputs


def _export(generator: Generator) -> onnx.ModelProto:
    try:
        try:
            return _exported(generator, _as_it_is(generator.program))
        except Exception:  # an operator that it has no form for, and must take apart
            return _exported(generator, generator.program)
    except Exception as error:  # whatever the exporter says of an operator
        # The exporter's own error tells of its steps; what it is from names the operator.
        plain = _COLOURS.sub("", str(error.__cause__ or error)).split("See the stack trace")[0]
        lines = [line for line in plain.splitlines() if line.strip()]
        raise LeanganError(
            f"{generator.name} cannot be written as ONNX: {type(error).__name__}: "
            f"{lines[0].strip() if lines else ''} Choose the runtime torch instead."
        ) from error


def _exported(generator: Generator, program: ExportedProgram) -> onnx.ModelProto:
    import torch

    from leangan.graph.capture import quiet

    inputs, outputs = port_names(generator)
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
        )
    assert made is not None
    return made.model_proto


def _as_it_is(program: ExportedProgram) -> ExportedProgram:
    """A copy that the exporter does not trace anew, which takes it most of its time.

    It wants operators taken apart that have no form of their own in ONNX. Most programs have none.
    """
    made = copy.deepcopy(program)
    for node, copied in zip(program.graph.nodes, made.graph.nodes, strict=True):
        copied.name = node.name  # one like a Python builtin is copied with another
    _as_convolutions(made)
    made.run_decompositions = lambda *_: made
    return made


def _as_convolutions(program: ExportedProgram) -> None:
    """Transposed convolutions as the general operator, the one that the exporter knows."""
    from leangan.graph.operators import aten, read_convolution

    for node in program.graph.nodes:
        conv = read_convolution(node)
        if conv is not None and conv.transposed and conv.padding is not None:
            sizes = [list(n) for n in (conv.stride, conv.padding, conv.dilation)]
            tail = (True, list(conv.output_padding), conv.groups)
            node.target = aten.convolution.default
            node.args, node.kwargs = (conv.x, conv.weight, conv.bias, *sizes, *tail), {}


def _check_sizes(generator: Generator, port: Port, value: onnx.ValueInfoProto) -> None:
    """The exporter is known to fix sizes without a word; that must never reach a user."""
    dims = value.type.tensor_type.shape.dim
    found = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    if found != port.shape:
        raise LeanganError(
            f"Writing {generator.name} as ONNX turned the sizes {port.shape} of input "
            f"{port.name!r} into {found}. Please report this; the runtime torch is not affected."
        )


def _name_sizes(port: Port, value: onnx.ValueInfoProto, prefix: str) -> None:
    """`batch`, `height`, `width` in place of the exporter's symbols and formulas."""
    for letter, dim in zip(port.layout, value.type.tensor_type.shape.dim, strict=True):
        if not dim.HasField("dim_value"):
            # The batch goes through unchanged; other sizes of an output are its own.
            dim.dim_param = ("" if letter == "N" else prefix) + _AXES.get(letter, f"size_{letter}")


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop stack traces and paths of this machine, and shapes that speak of the old symbols."""
    graph = model.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    for item in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
        del item.metadata_props[:]
        item.doc_string = ""
    model.producer_name = "leangan"
    model.producer_version = ""
