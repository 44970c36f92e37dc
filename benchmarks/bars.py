"""Compress real generators and hold the results against what is asked of them.

    python benchmarks/bars.py cyclegan-vintage --data PHOTOS [--limit 48] [--threads 2] [-o OUT]

Every ratio is of two candidates that were timed interleaved in one run of compress.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leangan as lg

Facts = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """One number that is asked for, and how it is read off report.json."""

    what: str
    least: float
    value: Callable[[Facts], float]


def entry(facts: Facts, name: str) -> Facts:
    return next(e for e in facts["candidates"] if e["name"] == name)


def over(baseline: str) -> Callable[[Facts], float]:
    """How many times faster the delivered one is than a candidate."""
    return lambda f: f["delivered"]["speedup"] / entry(f, baseline)["speedup"]


def quality(metric: str) -> Callable[[Facts], float]:
    return lambda f: float(f["delivered"]["quality"][metric]["mean"] or 100)


def best_rewritten(facts: Facts) -> Facts:
    """The fastest float candidate with rewrites."""
    found = [e for e in facts["candidates"] if " + " in e["name"] and e["speedup"]]
    return max(found, key=lambda e: e["speedup"])


def eager(facts: Facts) -> float:
    return float(facts["delivered"]["speedup"])


def smaller(facts: Facts) -> float:
    return float(facts["original"]["size_bytes"] / facts["delivered"]["size_bytes"])


PLAIN = "openvino bf16"
BARS: dict[str, tuple[Bar, ...]] = {
    "cyclegan-vintage": (
        Bar("PSNR to its own output, dB", 45, quality("psnr")),
        Bar("times faster than OpenVINO plain bf16", 1.4, over(PLAIN)),
        Bar("times faster than PyTorch eager", 10, eager),
        Bar("times smaller as a file", 3.8, smaller),
    ),
    "dcgan-faces": (
        Bar(
            "rewritten bf16: times faster than OpenVINO plain bf16",
            2.5,
            lambda f: best_rewritten(f)["speedup"] / entry(f, PLAIN)["speedup"],
        ),
        Bar(
            "rewritten bf16: PSNR, dB",
            50,
            lambda f: best_rewritten(f)["quality"]["psnr"]["mean"],
        ),
        Bar("delivered: PSNR, dB", 40, quality("psnr")),
        Bar("delivered: times faster than PyTorch eager", 4, eager),
        Bar("delivered: times faster than ONNX Runtime float", 4, over("onnxruntime fp32")),
    ),
    "realesrgan-x4plus-anime": (
        Bar("PSNR to its own output, dB", 40, quality("psnr")),
        Bar("times faster than OpenVINO plain bf16", 1.2, over(PLAIN)),
    ),
    "realesr-animevideov3-x4": (
        Bar("PSNR to its own output, dB", 40, quality("psnr")),
        Bar("times faster than OpenVINO plain bf16", 1.2, over(PLAIN)),
    ),
    "srgan": (
        Bar("PSNR to its own output, dB", 40, quality("psnr")),
        Bar("times faster than OpenVINO plain bf16", 1.7, over(PLAIN)),
    ),
    "hifigan-piper-joe": (
        Bar("signal to error, dB", 40, quality("snr")),
        Bar("times faster than OpenVINO plain bf16", 2.3, over(PLAIN)),
        Bar("times faster than PyTorch eager", 6, eager),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BARS))
    parser.add_argument("--weights", help="checkpoint, for srgan which is in no package")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = lg.compress(
            options.weights or f"zoo:{options.name}",
            options.data,
            options.out or Path(folder) / "out",
            threads=options.threads,
            limit=options.limit,
            progress=lambda text, done=None, total=None: (
                print(text, file=sys.stderr) if done in (None, total) else None
            ),
        )
    facts = report.to_json()
    print(f"{options.name}: {time.perf_counter() - start:.0f} s, {facts['environment']['cpu']}, ")
    print(f"  {', '.join(facts['environment']['instructions'])}; {options.threads} threads")
    for e in (facts["original"], *facts["candidates"]):
        latency = e["latency_ms"]
        scores = ", ".join(
            f"{m} {s['mean']:.4g}" for m, s in e["quality"].items() if s["mean"] is not None
        )
        ms = f"{latency['p50']:8.2f} ms  {e['speedup']:5.2f}x" if latency else f"  {e['error']}"
        print(f"  {e['name']:56s} {ms}  {e['size_bytes'] / 1e6:6.2f} MB  {scores}")
    print(f"  delivered: {facts['delivered'] and facts['delivered']['name']}")
    missed = 0
    for bar in BARS[options.name]:
        value = bar.value(facts) if facts["delivered"] else float("nan")
        held = value >= bar.least
        missed += not held
        print(f"  {'held  ' if held else 'MISSED'} {bar.what}: {value:.2f} (asked {bar.least:g})")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
