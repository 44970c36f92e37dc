"""Quantize a trained generator, save it, and say what that did to its size and output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leangan import sources
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.report.json_report import finite
from leangan.report.words import conditions
from leangan.search.judge import RANDOM_ONLY, quality_of, sizes, task_samples
from leangan.search.precision_plan import PrecisionPlan, apply_plan, read_plan, write_plan
from leangan.search.quantize_report import write_quantization_page
from leangan.tasks.base import Sample
from leangan.tasks.pictures import flat_samples
from leangan.techniques.codebook import codebook as fit_codebooks
from leangan.techniques.describe_quantized import QuantizedLayer, describe_layers, summarize
from leangan.techniques.scheme import FLOAT, Scheme

Progress = Callable[..., None]
_TOLD = 3
"""Coarsest layers to name."""


@dataclass(frozen=True)
class Quantized:
    """A quantized generator, the file that it lies in, and what was seen."""

    generator: Generator
    file: Path
    facts: dict[str, Any]
    """JSON values: model, task, bits, codebook, before, after, quality, judged_on, layers,
    summary, coarsest, plan, warnings, notes, file."""


def quantize_model(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    scheme: Scheme | None = None,
    bits: int = 4,
    codebook: bool = False,
    only: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    plan: Path | None = None,
    report: Path | str | None = None,
    command: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Quantized:
    """Quantize a generator and measure it against the original.

    What is linear leaves its plan beside `out`, as NAME.plan.yaml, to be edited and applied.

    Args:
        source: whatever `leangan.load` takes, or a Generator.
        data: folder of typical inputs, or `zoo:photos`; None for generators that start from
            noise. Codebooks can do without.
        out: the `.pt2` file to write.
        scheme: of linear quantization; 8 bits for weights and activations when left out.
        bits: of codebooks, 2 to 8.
        codebook: weights as indices into codebooks, in place of linear quantization.
        only: with codebooks, patterns of layer names.
        keep_float: names of layers that linear quantization leaves alone.
        plan: a file that says each layer's precision, in place of `scheme` and `keep_float`.
        report: an `.html` page to write.
        command: what the user typed, for the page.
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
    if codebook and (scheme or plan or keep_float):
        raise UsageError(
            "Codebooks have no even steps: leave out what belongs to these, or --codebook. Layers "
            "are chosen with --only."
        )
    if only and not codebook:
        raise UsageError("Layers are chosen with --only for codebooks alone; see --keep-float.")
    if plan and (scheme or keep_float):
        raise UsageError("The plan says each layer's precision: edit it instead of saying it here.")
    wanted = read_plan(plan) if plan else None
    say("Loading the model")
    original = source if isinstance(source, Generator) else sources.load(source, **loading or {})
    task, samples, judged_on = task_samples(original, data, limit, seed, must=not codebook)
    if codebook:
        made = fit_codebooks(
            original,
            bits,
            data=[s.inputs for s in samples.calibration] or None,
            only=only or None,
            seed=seed,
            progress=lambda done, total: say("Fitting codebooks", done, total),
        )
    else:
        wanted = wanted or PrecisionPlan(
            dict.fromkeys(keep_float, FLOAT),
            (scheme or Scheme()).word,
            original.name,
            scheme or Scheme(),
        )
        used = (*samples.calibration, *flat_samples(original))
        made = apply_plan(
            original,
            [s.inputs for s in used],
            wanted,
            names=[s.name for s in used],
            seed=seed,
            progress=lambda done, total: say("Calibrating", done, total),
        )
    say("Judging the quantized generator")
    quality = quality_of(original, made, task, samples.held_out, cure="take more bits")
    power = _power(original, samples.held_out)
    described = describe_layers(made, original, power=power)
    say("Writing")
    made.save(out)
    facts = finite(
        {
            "model": str(source) if isinstance(source, str | Path) else original.name,
            "task": task.name if task else None,
            "floor": task.floor if task else None,
            "bits": bits if codebook else None,
            "codebook": codebook,
            "before": _size(original),
            "after": sizes(made, out),
            "quality": quality,
            "judged_on": judged_on,
            "layers": made.history[-1].measured.get("layers", {}),
            "notes": list(samples.notes),
            "file": str(out),
        }
    )
    facts["summary"] = summarize(described)
    facts["coarsest"] = [
        {"name": layer.name, "weight_db": layer.weight_db} for layer in _coarsest(described)
    ]
    facts["warnings"] = _warnings(facts)
    facts["plan"] = None
    if wanted is not None:
        facts["plan"] = str(write_plan(_filled(wanted, made), out.with_suffix(".plan.yaml")))
    if report is not None:
        facts["report"] = str(report)
        write_quantization_page(
            facts, described, made, original, Path(report),
            task=task, samples=samples.held_out, command=command,
        )  # fmt: skip
    return Quantized(made, out, facts)


def _filled(plan: PrecisionPlan, made: Generator) -> PrecisionPlan:
    """The plan with each layer named, so that each can be edited."""
    words = made.history[-1].settings["words"]
    return replace(plan, layers=words, model=plan.model or made.name)


def _coarsest(layers: Sequence[QuantizedLayer]) -> list[QuantizedLayer]:
    known = [layer for layer in layers if layer.weight_db is not None]
    return sorted(known, key=lambda layer: layer.weight_db or 0.0)[:_TOLD]


def _power(original: Generator, samples: Sequence[Sample]) -> float | None:
    """Mean square of the output where it has no range to compare noise with."""
    if original.signature.outputs[0].range is not None or not samples:
        return None
    return float(original.outputs(*samples[0].inputs)[0].square().mean())


def _size(generator: Generator) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        return sizes(generator, generator.save(Path(folder) / "generator.pt2"))


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
