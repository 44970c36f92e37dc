"""What is written of a quantized generator for people: the page of `leangan quantize --report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leangan.generator import Generator
from leangan.report.quantization import write_quantization
from leangan.search.pictures import before_and_after
from leangan.tasks.base import Sample, Task
from leangan.techniques.describe_quantized import QuantizedLayer, summarize

_SHOWN = 4
"""Samples on the page."""


def write_quantization_page(
    facts: Mapping[str, Any],
    layers: Sequence[QuantizedLayer],
    generator: Generator,
    original: Generator,
    path: Path,
    *,
    task: Task | None = None,
    samples: Sequence[Sample] = (),
    command: str | None = None,
) -> Path:
    """Write the page of a quantization, atomically.

    Args:
        facts: of `search.quantize.Quantized`.
        layers: what `describe_layers` says of the quantized one.
        generator: the quantized one.
        original: the float one that it was made of.
        path: the `.html` file.
        task: judges each sample for its caption; without it no pictures are shown.
        samples: held-out ones; the first few are shown, before and after.
        command: what the user typed.
    """
    extras = {
        "summary": summarize(layers),
        "layers": [asdict(layer) for layer in layers],
        "samples": before_and_after(original, generator, task, samples[:_SHOWN]),
        "steps": [
            # The table has each layer's precision.
            {"name": s.name, "settings": {k: v for k, v in s.settings.items() if k != "words"}}
            for s in generator.history
        ],
        "command": command,
    }
    return write_quantization(facts, extras, path)
