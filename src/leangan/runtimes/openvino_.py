"""OpenVINO on the CPU: float32, bfloat16 where the CPU has it, and int8 from the QDQ form."""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.files import atomic_folder
from leangan.runtimes.base import Arrays, Artifact, counted
from leangan.runtimes.layer_names import layer_of
from leangan.runtimes.layer_times import Executed, by_layer, run_often, typical
from leangan.runtimes.onnx_codes import drop_16_bits, weight_codes
from leangan.runtimes.onnx_file import save_onnx, to_onnx
from leangan.runtimes.onnx_integer import (
    round_before_joins,
    round_before_shuffles,
    scale_where_computed,
    sum_twice,
)
from leangan.runtimes.openvino_codebook import index_constants, pack_constants
from leangan.runtimes.openvino_probe import saturates

if TYPE_CHECKING:
    import onnx

    from leangan.generator import Generator

# OpenVINO tells its makers of each import, from a copy of the process that may hang for good and
# costs three seconds then. Without that package it tells nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int8+bf16": "bf16"}
_MODEL = "generator.xml"
_SMALL = 1024
"""Constants of up to this many elements stay float32: biases and quantization scales, whose
range half precision may not hold, and which weigh nothing."""

_SHORT_MS = 0.2
_UNCLIPPED = 64
"""The largest weight of which two, each times 255, fit in 16 bits."""


class OpenVINO:
    """OpenVINO's CPU plugin; artifacts are its IR, an .xml with a .bin beside it."""

    name = "openvino"
    free_sizes = True
    by_default = True
    runs_here = True
    timed = True

    def missing(self) -> str | None:
        """None when OpenVINO is installed, else how to get it."""
        return None if importlib.util.find_spec("openvino") else "pip install openvino"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """What the plugin says this CPU has instructions for, fastest last."""
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        bf16 = "BF16" in capabilities
        if quantized:
            if "INT8" not in capabilities:
                return ()
            return ("int8", "int8+bf16") if bf16 else ("int8",)
        return ("fp32", "bf16") if bf16 else ("fp32",)

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.xml and generator.bin.

        Weights of few different values are stored as tables and indices, which loading expands.
        float32 artifacts are exact. In those that compute in bfloat16, weights that are still
        float are stored in half precision, which is finer than what they are computed in.
        """
        import openvino as ov

        if precision not in _HINTS:
            raise LeanganError(
                f"OpenVINO has no precision {precision!r}; choose from {', '.join(_HINTS)}."
            )
        with tempfile.TemporaryDirectory() as temporary:
            source = to_onnx(generator)
            drop_16_bits(source)
            round_before_shuffles(source)
            round_before_joins(source)
            scale_where_computed(source)
            sum_twice(source)
            model = _core().read_model(save_onnx(source, Path(temporary) / "generator.onnx"))
            _name_last_layers(model, source)
            _simplify(model)
            _drop_lost_biases(model)
            index_constants(model)
            pack_constants(model, weight_codes(source))
            if _HINTS[precision] == "bf16":
                _halve(model)
            with atomic_folder(folder) as out:
                ov.save_model(model, out / _MODEL, compress_to_fp16=False)
                _shorten(out / _MODEL)
        files = (folder / _MODEL, (folder / _MODEL).with_suffix(".bin"))
        return Artifact(self.name, precision, files)

    def open(self, artifact: Artifact, threads: int) -> OpenVINOSession:
        """Compile for this CPU, with the precision said outright: the default depends on it."""
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[artifact.precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Pinned threads of several processes meet on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return OpenVINOSession(artifact.path, settings)

    def coverage(self, artifact: Artifact) -> list[str]:
        """Read from what the plugin makes of the file on this CPU, by the kinds of its nodes."""
        if not artifact.in_8_bits:
            return []
        floating = self.open(artifact, threads=1).outside_int8()
        told = [f"Not in 8 bits: {floating}."] if floating else []
        if saturates() and _largest_code(artifact.path) > _UNCLIPPED:
            told.append(
                "This CPU has no VNNI, and OpenVINO clips large sums of 8 bits on it, which costs "
                "quality; weights of 7 bits keep below that."
            )
        return told


class OpenVINOSession:
    """A compiled model, one request that is used again and again, and the last inputs."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._compiled = _core().compile_model(path, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._inputs: list[np.ndarray] | None = None

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        self._inputs = [np.ascontiguousarray(x, dtype=np.float32) for x in inputs]
        results = self._request.infer(self._inputs, share_inputs=True)
        return list(results.values())

    def int8_share(self) -> float | None:
        """Read back from the graph that the plugin executed last; None before the first run."""
        whole = eight = 0
        for node in self._compiled.get_runtime_model().get_ops():
            shapes = [p.get_partial_shape() for p in [*node.inputs(), *node.outputs()]]
            kind = _told(node, "layerType")
            if kind not in _MACS:
                continue
            if not all(shape.is_static for shape in shapes):
                return None
            macs = _MACS[kind](*(tuple(s.to_shape()) for s in (*shapes[:2], shapes[-1])))
            whole += macs
            if _told(node, "runtimePrecision") in _EIGHT:
                eight += macs
        return eight / whole if whole else None

    def outside_int8(self) -> str:
        """Nodes that compute in float, in words for people."""
        return counted(
            _told(node, "layerType")
            for node in self._compiled.get_runtime_model().get_ordered_ops()
            if _told(node, "layerType") not in _MOVES
            and _told(node, "runtimePrecision") not in _EIGHT
        )

    def layer_times(self) -> dict[str, float]:
        """From the plugin's own clock, which runs in a second compilation of the model."""
        if self._inputs is None:
            return {}
        compiled = _core().compile_model(self._path, "CPU", {**self._settings, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        runs = 0
        spent: dict[str, list[float]] = {}

        def run() -> None:
            nonlocal runs
            request.infer(self._inputs, share_inputs=True)
            runs += 1
            for info in request.get_profiling_info():
                ms = spent.setdefault(info.node_name, [])
                # What the plugin tells is the average over all runs so far.
                average = info.real_time.total_seconds() * 1e3
                ms.append(max(0.0, average * runs - sum(ms)))

        run_often(run)
        # Averages come in whole microseconds: for short nodes their differences are too coarse.
        times = {
            name: typical(ms) if typical(ms) > _SHORT_MS else mean(ms[1:])
            for name, ms in spent.items()
        }
        nodes = compiled.get_runtime_model().get_ordered_ops()
        return by_layer([_executed(node, times) for node in nodes])


Shape = tuple[int, ...]


def _convolution(data: Shape, weight: Shape, out: Shape) -> int:
    # A grouped weight has one axis more: [groups, out/groups, in/groups, *kernel].
    return math.prod(out) * math.prod(weight[1 + len(weight) - len(out) :])


def _deconvolution(data: Shape, weight: Shape, out: Shape) -> int:
    return math.prod(data) * math.prod(weight[1 + len(weight) - len(out) :])


def _matmul(data: Shape, weight: Shape, out: Shape) -> int:
    return math.prod(out) * data[-1]


_MACS = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "MatMul": _matmul,
    "FullyConnected": _matmul,
}


_EIGHT = ("u8", "i8")
_MOVES = frozenset(
    {"Const", "Convert", "FakeQuantize", "Input", "Output", "Quantize", "Reorder", "Reshape"}
)
"""Kinds of nodes that compute nothing, or make 8 bits of float."""
_HELPERS = frozenset(
    {
        "Convert", "DepthToSpace", "FakeQuantize", "Interpolate", "Pad", "Quantize", "Reorder",
        "Reshape", "SpaceToDepth", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Kinds of nodes that only bring values into another form or place."""


def _executed(node: Any, times: Mapping[str, float]) -> Executed:
    kind, name = _told(node, "layerType"), node.get_friendly_name()
    origins = _told(node, "originalLayersNames").split(",")
    return Executed(
        name,
        times.get(name, 0.0),
        next(filter(None, map(layer_of, origins)), None),
        kind in _HELPERS,
        tuple(i.get_source_output().get_node().get_friendly_name() for i in node.inputs()),
    )


def _told(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


@functools.cache
def _core() -> Any:
    import openvino as ov

    return ov.Core()


def _name_last_layers(model: Any, source: onnx.ModelProto) -> None:
    """OpenVINO calls what an output comes from by the output; give layers their names back."""
    makers = {value: node.name for node in source.graph.node for value in node.output}
    for result in model.get_results():
        node = result.input_value(0).get_node()
        name = makers.get(node.get_friendly_name(), "")
        if layer_of(name):
            node.set_friendly_name(name)


def _simplify(model: Any) -> None:
    """Fold arithmetic on constants, keep equal ones once, drop the names of inner tensors.

    The public `convert_model` does the first as well, but sends telemetry without being asked.
    """
    from openvino._offline_transformations import apply_moc_transformations

    with _computed_on_loading(model):
        apply_moc_transformations(model, cf=True)
    seen: dict[tuple[str, Shape, bytes], Any] = {}
    for node in _constants(model):
        if math.prod(node.get_output_shape(0)) > _SMALL:
            continue
        kind = node.get_element_type().get_type_name()
        key = (kind, tuple(node.get_output_shape(0)), node.data.tobytes())
        first = seen.setdefault(key, node)
        if first is not node:
            _replace(node, first)
    results = model.get_results()
    ends = {n.get_friendly_name() for n in [*model.get_parameters(), *results]}
    ends |= {r.input_value(0).get_node().get_friendly_name() for r in results}
    for node in model.get_ops():
        if node.get_friendly_name() not in ends:
            for output in node.outputs():
                output.get_tensor().set_names(set())


@contextmanager
def _computed_on_loading(model: Any) -> Iterator[None]:
    """Keep products of two constants, such as a kernel's sums, as they are while others are folded.

    They are larger than what they are made of, and the plugin folds them when it compiles.
    """
    from openvino import opset13 as ops

    held = []
    for node in model.get_ops():
        sources = [source.get_node() for source in node.input_values()]
        if node.get_type_name() == "MatMul" and {s.get_type_name() for s in sources} == {
            "Constant"
        }:
            small = min(sources, key=lambda s: math.prod(s.get_output_shape(0)))
            stand_in = ops.parameter(small.get_output_shape(0), small.get_element_type())
            node.input(sources.index(small)).replace_source_output(stand_in.output(0))
            held.append((stand_in, small))
    model.add_parameters([stand_in for stand_in, _ in held])
    yield
    for stand_in, small in held:
        _replace(stand_in, small)
        model.remove_parameter(stand_in)


def _drop_lost_biases(model: Any) -> None:
    """Leave out constants that a norm right behind them takes away again with the mean.

    Every convolution in front of an InstanceNorm has such a bias.
    """
    for node in model.get_ops():
        if node.get_type_name() != "MVN":
            continue
        add = node.input_value(0).get_node()
        if add.get_type_name() != "Add" or len(add.output(0).get_target_inputs()) != 1:
            continue
        axes = node.input_value(1).get_node().data.tolist()
        for place in (0, 1):
            bias = add.input_value(place).get_node()
            if bias.get_type_name() != "Constant":
                continue
            shape = tuple(bias.get_output_shape(0))
            rank = add.get_output_partial_shape(0).rank.get_length()
            if len(shape) == rank and all(shape[axis] == 1 for axis in axes):
                node.input(0).replace_source_output(add.input_value(1 - place))


def _largest_code(path: Path) -> int:
    """Of the weights that are stored in 8 bits; 0 where there are none."""
    stored = _constants(_core().read_model(path))
    kernels = [c for c in stored if c.get_element_type().get_type_name() == "i8"]
    return max((int(np.abs(c.data.astype(np.int16)).max()) for c in kernels), default=0)


def _halve(model: Any) -> None:
    """Store large float constants in half precision, unless they leave its range."""
    import openvino as ov
    from openvino import opset13 as ops

    for node in _constants(model):
        if node.get_element_type() != ov.Type.f32 or math.prod(node.get_output_shape(0)) <= _SMALL:
            continue
        with np.errstate(over="ignore"):
            half = node.data.astype(np.float16)
        if np.isfinite(half).all():
            _replace(node, ops.convert(ops.constant(half), "f32"))


def _constants(model: Any) -> list[Any]:
    return [node for node in model.get_ops() if node.get_type_name() == "Constant"]


def _replace(old: Any, new: Any) -> None:
    for user in old.output(0).get_target_inputs():
        user.replace_source_output(new.output(0))


def _shorten(xml: Path) -> None:
    """Drop what reading does not need: indentation, shapes and types that follow from others.

    It is more than half of the text, and small networks have more text than weights.
    """
    text = re.sub(r"\n\s*", "", xml.read_text("utf-8"))
    text = re.sub(r"(<port [^>]*)>(?:<dim>-?\d+</dim>)*</port>", r"\1/>", text)
    # An input has the type of the output that it reads, and numpy's broadcasting is the usual one.
    text = re.sub(r"<input>.*?</input>", lambda m: re.sub(r' precision="\w+"', "", m[0]), text)
    text = text.replace(' auto_broadcast="numpy"', "").replace(" />", "/>").replace("<data/>", "")
    xml.write_text(text, "utf-8")
