"""Numbers and verdicts as people say them, the same in the table, the report and the card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leangan.errors import UsageError

METRICS = {
    "psnr": ("PSNR", "dB"),
    "psnr_y": ("PSNR-Y", "dB"),
    "snr": ("SNR", "dB"),
    "ssim": ("SSIM", ""),
    "perceptual": ("perceptual distance", ""),
    "mean_shift": ("mean colour shift, levels of 255", ""),
    "flat_shift": ("mean shift on flat colours", "levels"),
    "psnr_y_lost": ("PSNR-Y lost against ground truth", "dB"),
    "speedup": ("speed-up", ""),
    "smaller": ("size ratio", ""),
}
"""Name for people and unit of every metric that we know; others are shown as they are called."""

RUNTIMES = {
    "torch": "PyTorch",
    "torch-inductor": "PyTorch inductor",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-cuda": "ONNX Runtime CUDA",
    "onnxruntime-tensorrt": "ONNX Runtime TensorRT",
    "torch-cuda": "PyTorch CUDA",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "coreml": "Core ML",
}

EXACT_DB = 80.0
"""From here on a difference is float rounding: 8 bits already round at about 59 dB."""

_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=)\s*(-?\d+(?:\.\d*)?)\s*")


@dataclass(frozen=True)
class Condition:
    """One part of a quality floor, for example `psnr>=40`."""

    metric: str
    at_least: bool
    value: float

    def holds(self, quality: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the mean of the metric meets it; a metric that was not measured does not."""
        if self.metric not in quality:
            return False
        mean = quality[self.metric]["mean"]
        if mean is None:  # JSON's form of an infinite ratio: identical
            return self.at_least
        return bool(mean >= self.value if self.at_least else mean <= self.value)

    def __str__(self) -> str:
        """In words: "PSNR of at least 40 dB"."""
        name, unit = metric_words(self.metric)
        bound = "at least" if self.at_least else "at most"
        return f"{name} of {bound} {self.value:g}{' ' + unit if unit else ''}"


def conditions(floor: str | None) -> tuple[Condition, ...]:
    """Read a floor: conditions `metric>=number` or `metric<=number`, joined by commas.

    Raises:
        UsageError: a part does not have that form.
    """
    parts = [part for part in (floor or "").split(",") if part.strip()]
    return tuple(_condition(part) for part in parts)


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text.strip()!r} is no quality floor; write metric>=number (or <= for distances), "
            'for example "psnr>=40" or "psnr>=40,ssim>=0.98".'
        )
    metric, sign, value = match.groups()
    return Condition(metric, sign == ">=", float(value))


def floor_words(floor: str | None) -> str:
    """The whole floor as a phrase: "PSNR of at least 40 dB and SSIM of at least 0.98"."""
    return " and ".join(map(str, conditions(floor)))


def above_floor(entry: Mapping[str, Any], floor: str | None) -> bool:
    """Whether an entry of report.json keeps the quality and the `speedup` of `floor`.

    `smaller`, which only the original's size could tell, is not looked at.
    """
    return not _missed(entry, floor)


def _missed(entry: Mapping[str, Any], floor: str | None) -> list[Condition]:
    facts = {**entry["quality"], "speedup": {"mean": entry["speedup"] or 0.0}}
    return [c for c in conditions(floor) if c.metric != "smaller" and not c.holds(facts)]


def metric_words(metric: str) -> tuple[str, str]:
    """Name and unit of a metric: `psnr_truth` is ("PSNR to ground truth", "dB")."""
    if metric.endswith("_truth"):
        name, unit = metric_words(metric.removesuffix("_truth"))
        return f"{name} to ground truth", unit
    return METRICS.get(metric, (metric.replace("_", " "), ""))


def main_metric(entries: list[dict[str, Any]], floor: str | None) -> str | None:
    """The metric that one column or axis shows: the floor's first, else the first measured."""
    measured = [metric for e in entries for metric in e["quality"]]
    wanted = [*(c.metric for c in conditions(floor)), *METRICS, *measured]
    return next((metric for metric in wanted if metric in measured), None)


def metric_value(metric: str, value: float | None) -> str:
    """A metric's value with its unit: "50.5 dB", "0.982", "identical"."""
    unit = metric_words(metric)[1]
    if value is None:
        return "identical"
    if unit == "dB":
        # What is lost is told by hundredths; adding zero makes a negative zero a plain one.
        digits = 2 if metric.endswith("_lost") else 1
        return f"{round(value, digits) + 0.0:.{digits}f} dB"
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"


def at_quality(facts: Mapping[str, Any]) -> str:
    """How a sentence of what was done ends: ", at a PSNR of 50.5 dB to its own output."."""
    metric = main_metric([{"quality": facts["quality"]}], facts["floor"])
    if metric is None:
        return "."
    value = metric_value(metric, facts["quality"][metric]["mean"])
    return f", at a {metric_words(metric)[0]} of {value} to its own output."


def short_name(model: str) -> str:
    """The last part of a path or name."""
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2]


def quality_words(entry: Mapping[str, Any], metric: str | None) -> str:
    """Mean, worst and number of samples: "50.5 dB (worst 47.9, n 16)"; empty if not measured."""
    score = entry["quality"].get(metric) if metric else None
    if metric is None or score is None:
        return ""
    if score["mean"] is None:
        return f"identical (n {score['n']})"
    worst = metric_value(metric, score["worst"]).removesuffix(" dB")
    return f"{metric_value(metric, score['mean'])} (worst {worst}, n {score['n']})"


def milliseconds(value: float | None) -> str:
    """Three digits: "399", "34.5", "5.41", "0.230"."""
    if value is None:
        return ""
    return (
        f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
        if value >= 1
        else f"{value:.3f}"
    )


def times(value: float | None) -> str:
    """A ratio: "11.6×", "0.83×"."""
    if value is None:
        return ""
    return f"{value:.{0 if value >= 100 else 1 if value >= 2 else 2}f}×"


def size(value: float | None) -> str:
    """Bytes in decimal units: "11.6 MB"."""
    if value is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.{0 if unit == 'B' or value >= 100 else 1}f} {unit}"


def count(value: float | None) -> str:
    """A large number: "11.4 M", "49.6 G"."""
    if value is None:
        return ""
    for unit in ("", " k", " M", " G", " T"):
        if abs(value) < 1000 or unit == " T":
            break
        value /= 1000
    return f"{value:.{0 if not unit or value >= 100 else 1 if value >= 10 else 2}f}{unit}"


def share(value: float | None) -> str:
    """A part of one as per cent; "?" where nobody knows."""
    return "?" if value is None else f"{value:.0%}"


def runtime(name: str) -> str:
    """A runtime's own spelling."""
    return RUNTIMES.get(name, name)


def remark(entry: Mapping[str, Any], delivered: str | None, floor: str | None) -> str:
    """The verdict on one entry in words; empty when there is nothing to say."""
    if entry["error"]:
        return "failed: " + " ".join(str(entry["error"]).split())
    said = ["not timed: a simulator"] if entry["latency_ms"] is None else []
    if delivered is not None and entry["name"] == delivered:
        said.append("delivered")
    if entry["name"] != "original" and entry["quality"] and (missed := _missed(entry, floor)):
        # The first condition is what tables show; one that they do not show is named.
        shown = missed[0] == conditions(floor)[0]
        said.append("below the floor" + ("" if shown else f": {metric_words(missed[0].metric)[0]}"))
    if entry["slower_than_float"]:
        said.append("slower than float")
    return ", ".join(said)


def headline(report: Mapping[str, Any]) -> str:
    """What came of it, in one sentence."""
    entry = report["delivered"]
    if entry is None:
        floor = floor_words(report["floor"])
        wanted = f" with a {floor}" if floor else ""
        return f"No faster version{wanted} was found."
    metric = main_metric([entry], report["floor"])
    score = entry["quality"].get(metric) if metric else None
    quality = ""
    if metric and score:
        value = score["mean"]
        quality = (
            ", with identical output"
            if value is None
            else f", at {metric_value(metric, value)} to its own output"
            if metric_words(metric)[1] == "dB" and not metric.endswith("_truth")
            else f", at a {metric_words(metric)[0]} of {metric_value(metric, value)}"
        )
    speed = f"runs {times(entry['speedup'])} as fast as" if entry["speedup"] else "replaces"
    smaller = report["original"]["size_bytes"] / max(entry["size_bytes"], 1)
    sizes = f" and is {times(smaller)} smaller" if smaller >= 1.05 else ""
    name = short_name(report["model"])
    where = f"{runtime(entry['runtime'])} {entry['precision']}"
    return f"In {where}, {name} {speed} the original{sizes}{quality}."


def best_found(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was written although nothing reached the floor: the candidate whose file was kept."""
    return next((dict(e) for e in report["candidates"] if e["file"] and not e["error"]), None)


def plain(value: Any) -> str:
    """Settings and measurements of any JSON type in one line, without brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}".strip() for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
