"""Post-training quantizers of others: each builds its files in a process of its own.

    pip install nncf==3.4.0
    python benchmarks/peers.py MODEL WORK NAME

`int8_peers.py` lays WORK out and calls this. WORK holds the generator in float as all runtimes
read it (generator.onnx; generator.xml), calibration.npz, held_out.npz (inputs and the float
output) and settings.json. What NAME builds goes to WORK/NAME, as artifacts in built.json: by
runtime and precision an artifact, or the words of the error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("NNCF_CI", "1")  # NNCF sends no telemetry then

Samples = list[list[np.ndarray]]
Run = tuple[str, str]
"""Runtime and precision."""
Built = dict[Run, Path]
Build = Callable[[str, Path, Path], Built]
"""From the model's name, WORK and an empty folder."""

OPENVINO: tuple[Run, ...] = (("openvino", "int8+bf16"), ("openvino", "int8"))
EXACT_DB = 100.0
"""What counts as equal, since the PSNR of equal things is infinite."""
_RANKED_ON = 4
"""Samples that accuracy control ranks layers on; it judges on all."""


@dataclass(frozen=True)
class Peer:
    """One way to quantize, and where what comes out is run."""

    build: Build
    runs: tuple[Run, ...]


def write_samples(path: Path, samples: Iterable[Iterable[np.ndarray]]) -> None:
    arrays = {f"{i}_{j}": a for i, one in enumerate(samples) for j, a in enumerate(one)}
    np.savez(path, **arrays)


def read_samples(path: Path) -> Samples:
    found: dict[int, list[np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            found.setdefault(int(key.split("_")[0]), []).append(file[key])
    return [found[i] for i in sorted(found)]


def decibels(reference: np.ndarray, output: np.ndarray, span: float | None) -> float:
    """PSNR for pictures of that value span, else the signal to error ratio."""
    error = float(np.square(reference.astype(np.float64) - output).mean())
    power = span**2 if span else float(np.square(reference.astype(np.float64)).mean())
    return min(EXACT_DB, 10 * np.log10(power / error)) if error else EXACT_DB


def onnxruntime_static(method: str, *, per_channel: bool) -> Build:
    """`quantize_static` in the QDQ form with its defaults, after `quant_pre_process`."""

    def build(model: str, work: Path, out: Path) -> Built:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        names = json.loads((work / "settings.json").read_text())["inputs"]

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.samples = read_samples(work / "calibration.npz")
                self.set_range(0, len(self.samples))

            def __len__(self) -> int:
                return len(self.samples)

            def set_range(self, start_index: int, end_index: int) -> None:
                self.left = iter(self.samples[start_index:end_index])

            def get_next(self) -> dict[str, np.ndarray] | None:
                sample = next(self.left, None)
                return None if sample is None else dict(zip(names, sample, strict=True))

        prepared, file = out / "prepared.onnx", out / "generator.onnx"
        try:
            quant_pre_process(str(work / "generator.onnx"), str(prepared))
        except Exception:  # "Incomplete symbolic shape inference": its own advice is to skip that
            quant_pre_process(str(work / "generator.onnx"), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            Reader(),
            per_channel=per_channel,
            calibrate_method=CalibrationMethod[method],
            # One sample at a time: the histograms are those of all, the memory is that of one.
            extra_options={"CalibStridedMinMax": 1},
        )
        return {("onnxruntime", "int8"): file, ("openvino", "int8+bf16"): file}

    return build


def nncf_quantize(preset: str, *, fast: bool) -> Build:
    """`nncf.quantize` of the OpenVINO model."""

    def build(model: str, work: Path, out: Path) -> Built:
        import nncf

        found = nncf.quantize(
            _read(work),
            nncf.Dataset(read_samples(work / "calibration.npz")),
            preset=nncf.QuantizationPreset[preset],
            fast_bias_correction=fast,
        )
        return _save(found, out)

    return build


def nncf_accuracy(preset: str) -> Build:
    """`nncf.quantize_with_accuracy_control`; it may look at what all are judged on."""

    def build(model: str, work: Path, out: Path) -> Built:
        import nncf

        settings = json.loads((work / "settings.json").read_text())
        judged = read_samples(work / "held_out.npz")

        def judge(compiled: Any, rows: Iterable[list[np.ndarray]]) -> tuple[float, list[float]]:
            found = [
                decibels(reference, compiled(inputs)[0], settings["span"])
                for *inputs, reference in rows
            ]
            return float(np.mean(found)), found

        found = nncf.quantize_with_accuracy_control(
            _read(work),
            nncf.Dataset(read_samples(work / "calibration.npz")),
            nncf.Dataset(judged),
            judge,
            max_drop=EXACT_DB - settings["floor_db"],
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset[preset],
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=min(_RANKED_ON, len(judged))
            ),
        )
        return _save(found, out)

    return build


def torchao_pt2e(model: str, work: Path, out: Path) -> Built:
    """torchao's PT2E flow with its stock quantizer, as the .pt2 that our runtimes lower."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    import leangan as lg
    from leangan.generator import Step
    from leangan.graph.rewrite import recapture

    generator = lg.load(model)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    module = prepare_pt2e(generator.module(), quantizer)
    with torch.no_grad():
        for sample in read_samples(work / "calibration.npz"):
            module(*map(torch.from_numpy, sample))
    made = recapture(generator, convert_pt2e(module), Step("torchao"))
    if not made.quantized:
        raise RuntimeError("the quantizer found no layer in this graph")
    made.save(out / "generator.pt2")
    return dict.fromkeys(_TORCHAO, out / "generator.pt2")


def _read(work: Path) -> Any:
    import openvino as ov

    return ov.Core().read_model(work / "generator.xml")


def _save(model: Any, out: Path) -> Built:
    import openvino as ov

    # Scales in half precision would cost them quality.
    ov.save_model(model, out / "generator.xml", compress_to_fp16=False)
    return dict.fromkeys(OPENVINO, out / "generator.xml")


_ORT: tuple[Run, ...] = (("onnxruntime", "int8"), ("openvino", "int8+bf16"))
_TORCHAO: tuple[Run, ...] = (("openvino", "int8+bf16"), ("onnxruntime", "int8"), ("torch", "fp32"))

PEERS: Mapping[str, Peer] = {
    **{
        f"ONNX Runtime {method}{', per channel' if per_channel else ''}": Peer(
            onnxruntime_static(method, per_channel=per_channel), _ORT
        )
        for method in ("MinMax", "Percentile", "Entropy")
        for per_channel in (False, True)
    },
    **{
        f"NNCF {preset}{'' if fast else ', full bias correction'}": Peer(
            nncf_quantize(preset, fast=fast), OPENVINO
        )
        for preset in ("PERFORMANCE", "MIXED")
        for fast in (True, False)
    },
    **{
        f"NNCF {preset}, accuracy control": Peer(nncf_accuracy(preset), OPENVINO)
        for preset in ("PERFORMANCE", "MIXED")
    },
    "torchao PT2E": Peer(torchao_pt2e, _TORCHAO),
}


def main() -> None:
    model, work, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    out = work / name
    out.mkdir()
    built = PEERS[name].build(model, work, out)
    facts = [[*run, str(file)] for run, file in built.items()]
    (out / "built.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
