"""ONNX Runtime on the CPU: float32, and int8 from the QDQ form."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.runtimes.base import Arrays, Artifact, counted
from leangan.runtimes.layer_times import by_layer, run_often, typical
from leangan.runtimes.onnx_codebook import index_weights
from leangan.runtimes.onnx_codes import pack_codes
from leangan.runtimes.onnx_file import save_onnx, to_onnx
from leangan.runtimes.onnxruntime_layers import executed, floating

if TYPE_CHECKING:
    import onnx

    from leangan.generator import Generator

MODEL = "generator.onnx"
_KINDS: dict[str, type[np.generic]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
"""What inputs of foreign files are, where not float32: labels are floats everywhere else."""


class ONNXRuntime:
    """ONNX Runtime's CPU provider; an artifact is one .onnx file."""

    name = "onnxruntime"
    free_sizes = True
    by_default = True
    runs_here = True
    timed = True

    def missing(self) -> str | None:
        """None when ONNX Runtime is installed, else how to get it."""
        return None if importlib.util.find_spec("onnxruntime") else "pip install onnxruntime"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Its CPU provider computes in float32 and int8 only."""
        return ("int8",) if quantized else ("fp32",)

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.onnx.

        Weights of few different values are stored as tables and indices, which loading expands.
        """
        if precision not in ("fp32", "int8"):
            raise LeanganError(
                f"ONNX Runtime has no precision {precision!r} on the CPU; choose fp32 or int8."
            )
        model = to_onnx(generator)
        pack_codes(model)
        quantize_biases(model)
        index_weights(model)
        return Artifact(self.name, precision, (save_onnx(model, folder / MODEL),))

    def open(self, artifact: Artifact, threads: int) -> ONNXRuntimeSession:
        """Load and optimize for this CPU."""
        return ONNXRuntimeSession(artifact.path, threads, ["CPUExecutionProvider"])

    def coverage(self, artifact: Artifact) -> list[str]:
        """Read from what ONNX Runtime makes of the file, by the kinds of its operators."""
        if not artifact.in_8_bits:
            return []
        import onnxruntime as ort

        options = _options(threads=1)
        # The next level packs kernels into blocks, which computes the same in the same kinds.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / MODEL
            options.optimized_model_filepath = str(optimized)
            ort.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
            kinds = counted(floating(optimized))
        return [f"Not in 8 bits: {kinds}."] if kinds else []


def quantize_biases(model: onnx.ModelProto) -> int:
    """Store the biases of 8-bit convolutions as int32, without which none of them runs in 8 bits.

    The scale is that of the accumulator, input scale times weight scale, so that a bias moves by
    half a step of the accumulator at most.

    Returns:
        The number of biases changed.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"
    }

    def scale(value: str) -> np.ndarray | None:
        node = dequantized.get(value)
        tensor = stored.get(node.input[1]) if node else None
        return None if tensor is None else numpy_helper.to_array(tensor)

    added = []
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in stored:
            continue
        of_input, of_weight = scale(node.input[0]), scale(node.input[1])
        if of_input is None or of_weight is None:
            continue
        bias = numpy_helper.to_array(stored[node.input[2]])
        step = np.broadcast_to(of_input * of_weight, bias.shape).astype(np.float32)
        whole = np.rint(bias.astype(np.float64) / step)
        if not (np.abs(whole) < 2**31).all():
            continue
        name = f"{node.name}_bias"
        graph.initializer.append(numpy_helper.from_array(whole.astype(np.int32), f"{name}_int32"))
        graph.initializer.append(numpy_helper.from_array(step, f"{name}_scale"))
        added.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_int32", f"{name}_scale"], [name], name, axis=0
            )
        )
        node.input[2] = name
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return len(added)


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between runs would take the cores of whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class ONNXRuntimeSession:
    """An inference session, and the last inputs, which `int8_share` runs once more."""

    def __init__(self, path: Path, threads: int, providers: list[Any]) -> None:
        import onnxruntime as ort

        self._path = path
        self._threads = threads
        self._wanted = providers
        self._session = ort.InferenceSession(
            str(path), _options(self._threads), providers=providers
        )
        self.providers: list[str] = self._session.get_providers()
        """Those that could be loaded."""
        self._kinds = {v.name: _KINDS.get(v.type, np.float32) for v in self._session.get_inputs()}
        self._feed: dict[str, np.ndarray] | None = None

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        kinds = zip(self._kinds.items(), inputs, strict=True)
        self._feed = {name: np.ascontiguousarray(x, dtype=kind) for (name, kind), x in kinds}
        return list(self._session.run(None, self._feed))

    def int8_share(self) -> float | None:
        """From a profile of one run on the last inputs; None before the first run."""
        import onnxruntime as ort

        if self._feed is None:
            return None
        options = _options(self._threads)
        # The next level packs kernels into blocks, whose shapes no longer tell the work.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        # A packed kernel is missing from the shapes that the profile tells.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(str(self._path), options, providers=self._wanted)
            session.run(None, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return share_of_profile(events)

    def layer_times(self) -> dict[str, float]:
        """From a profile of some more runs, and the graph that they ran."""
        import onnxruntime as ort

        if self._feed is None:
            return {}
        options = _options(self._threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / MODEL
            options.optimized_model_filepath = str(optimized)
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(str(self._path), options, providers=self._wanted)
            run_often(lambda: session.run(None, self._feed))
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
            spent: dict[str, list[float]] = {}
            for event in events:
                if event.get("cat") == "Node":
                    name = event["name"].removesuffix("_kernel_time")
                    spent.setdefault(name, []).append(event["dur"] / 1e3)
            times = {name: typical(ms) for name, ms in spent.items()}
            return by_layer(executed(self._path, optimized, times))


def share_of_profile(events: list[dict[str, Any]]) -> float | None:
    """Share of the multiply-accumulates that ran on 8-bit weights, from profile events."""
    whole = eight = 0
    for event in events:
        args = event.get("args", {})
        operator = args.get("op_name", "")
        if event.get("cat") != "Node" or not any(k in operator for k in ("Conv", "MatMul", "Gemm")):
            continue
        # Scales, zero points and biases have one axis at most: what is left is data and weight.
        shapes = [
            (kind, shape)
            for tensor in args["input_type_shape"]
            for kind, shape in tensor.items()
            if len(shape) >= 2
        ]
        if len(shapes) < 2:
            continue
        (_, data), (kind, weight) = shapes[:2]
        (out,) = args["output_type_shape"][0].values()
        if "Transpose" in operator:
            macs = math.prod(data) * math.prod(weight[1:])
        elif "Conv" in operator:
            macs = math.prod(out) * math.prod(weight[1:])
        else:
            macs = math.prod(out) * data[-1]
        whole += macs
        if kind in ("int8", "uint8"):
            eight += macs
    return eight / whole if whole else None
