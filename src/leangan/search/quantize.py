"""Quantize a trained generator, save it, and say what that did to its size and output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leangan import sources
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.report.json_report import finite
from leangan.report.words import conditions
from leangan.search.judge import RANDOM_ONLY, quality_of, task_samples
from leangan.techniques.codebook import codebook as fit_codebooks
from leangan.techniques.quantize_linear import quantize as quantize_linear

Progress = Callable[..., None]


@dataclass(frozen=True)
class Quantized:
    """A quantized generator, the file that it lies in, and what was seen."""

    generator: Generator
    file: Path
    facts: dict[str, Any]
    """JSON values: model, task, bits, codebook, before, after, quality, judged_on, layers,
    warnings, notes, file."""


def quantize_model(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    bits: int = 8,
    codebook: bool = False,
    only: Sequence[str] = (),
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Quantized:
    """Quantize a generator and measure it against the original.

    Args:
        source: whatever `leangan.load` takes, or a Generator.
        data: folder of typical inputs, or `zoo:photos`; None for generators that start from
            noise. Codebooks can do without.
        out: the `.pt2` file to write.
        bits: 2 to 8 with codebooks, else 8.
        codebook: weights as indices into codebooks; else weights and activations in int8.
        only: with codebooks, patterns of layer names.
        seed: of samples and of the starts of k-means.
        limit: the most samples; by the network's cost when left out.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`.

    Raises:
        UsageError: the request cannot be.
        LeanganError: the model or the data cannot be used. Nothing is written then.
    """
    say = progress or (lambda message, done=None, total=None: None)
    out = Path(out)
    if out.suffix != ".pt2":
        raise UsageError(f"A quantized generator is saved as a .pt2 file; {out.name!r} is none.")
    if not codebook and bits != 8:
        raise UsageError(
            f"Weights of {bits} bits need codebooks, which no runtime computes with but every file "
            "is smaller for: add --codebook, or ask for 8 bits."
        )
    if only and not codebook:
        raise UsageError("Layers are chosen with --only for codebooks alone.")
    say("Loading the model")
    original = source if isinstance(source, Generator) else sources.load(source, **loading or {})
    task, samples, judged_on = task_samples(original, data, limit, seed, must=not codebook)
    used = [s.inputs for s in samples.calibration]
    if codebook:
        made = fit_codebooks(
            original,
            bits,
            data=used or None,
            only=only or None,
            seed=seed,
            progress=lambda done, total: say("Fitting codebooks", done, total),
        )
    else:
        say("Calibrating")
        made = quantize_linear(original, used)
    say("Judging the quantized generator")
    facts = finite(
        {
            "model": str(source) if isinstance(source, str | Path) else original.name,
            "task": task.name if task else None,
            "floor": task.floor if task else None,
            "bits": bits,
            "codebook": codebook,
            "before": _size(original),
            "after": _size(made),
            "quality": quality_of(original, made, task, samples.held_out, cure="take more bits"),
            "judged_on": judged_on,
            "layers": made.history[-1].measured.get("layers", {}),
            "notes": list(samples.notes),
            "file": str(out),
        }
    )
    facts["warnings"] = _warnings(facts)
    say("Writing")
    made.save(out)
    return Quantized(made, out, facts)


def _size(generator: Generator) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        file = generator.save(Path(folder) / "generator.pt2")
        return {
            "params": generator.params,
            "bytes": generator.bytes,
            "file_bytes": file.stat().st_size,
        }


def _warnings(facts: dict[str, Any]) -> list[str]:
    found = []
    if any(not c.holds(facts["quality"]) for c in conditions(facts["floor"])):
        found.append(
            f"The output is below the floor of the task {facts['task']}, {facts['floor']}: take "
            "more bits, or train what comes out."
        )
    if facts["task"] is None:
        found.append(RANDOM_ONLY)
    if facts["codebook"]:
        found.append("Codebooks make the file smaller; they save no time and no memory.")
    return found
