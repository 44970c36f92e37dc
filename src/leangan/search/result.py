"""The folder that compress leaves: model, generator, recipe, report, card."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leangan import runtimes, zoo
from leangan.files import atomic_folder
from leangan.graph.cost import layers
from leangan.graph.doors import DOOR_REWRITES, rewritten
from leangan.measure import perceptual
from leangan.measure.environment import environment
from leangan.report.card import card
from leangan.report.html import write_html
from leangan.report.json_report import finite, write_json
from leangan.report.words import headline
from leangan.search import recipe as recipes
from leangan.search.candidate import Candidate, entries
from leangan.search.choose import choose
from leangan.search.lab import Lab
from leangan.search.pictures import side_by_side
from leangan.search.precision_plan import PrecisionPlan, write_plan
from leangan.search.recipe import Recipe
from leangan.tasks.base import Task
from leangan.techniques.describe_quantized import QuantizedLayer, describe_layers, summarize
from leangan.techniques.layer_code import Calibration
from leangan.techniques.read_quantized import STEPS, has_few_levels
from leangan.techniques.scheme import FLOAT

_SHOWN = 4
"""Samples in the report."""
_RESTLESS = 1.5
"""A 90th percentile this many times the median says that something else was running."""
_RANGES = {
    "minmax": "its input's whole range, outliers included",
    "between": "its input clipped a little, outliers within reason",
    "mse": "its input clipped where that costs the least",
    "signature": "the known range of the generator's input",
    "percentile": "its input without the outermost thousandth",
    "entropy": "its input clipped where that loses the least information",
    "search": "its input clipped by what the layer puts out",
    "float": "weights alone, its input stays float",
}
"""How the range of a layer's input was chosen, for people."""
_EQUALIZED = ", channels scaled alike"


@dataclass(frozen=True)
class Report:
    """What compress found; `facts` is report.json's dictionary."""

    facts: Mapping[str, Any]
    folder: Path

    @property
    def delivered(self) -> Mapping[str, Any] | None:
        """The chosen entry, None when nothing reached the floor."""
        entry: Mapping[str, Any] | None = self.facts["delivered"]
        return entry

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in report.json."""
        return dict(self.facts)

    def __str__(self) -> str:
        """The verdict in a sentence."""
        return headline(self.to_json())


def write_result(
    lab: Lab,
    task: Task,
    out: Path,
    *,
    model: str,
    floor: str,
    calibration: Callable[[Candidate], Calibration],
    recipe: Callable[[Candidate], Recipe],
    plan: Callable[[Candidate], PrecisionPlan | None],
    command: str | None,
) -> Report:
    """Choose, and write everything at once: an interrupted run leaves `out` as it was."""
    lab.progress("Writing the result")
    original, *tried = entries((lab.original, *lab.candidates), lab.threads)
    delivered, best = choose(original, tried, floor)
    written = next((c for c in lab.candidates if best and c.name == best["name"]), None)
    precisions = plan(written) if written is not None else None
    with atomic_folder(out) as folder:
        if written is not None and written.artifact is not None and best is not None:
            place = folder / "model"
            for file in written.artifact.files:
                at = place / file.relative_to(written.artifact.path.parent)
                at.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if file.is_dir() else shutil.copy2
                copy(file, at)
            best["file"] = f"model/{written.artifact.path.name}"
            written.generator.save(folder / "generator.pt2")
            recipes.write(recipe(written), folder / "recipe.yaml")
            if precisions is not None:
                write_plan(precisions, folder / "plan.yaml")
        coded = _quantized(lab, written) if written is not None else []
        summary = summarize(coded)
        facts = finite(
            {
                "schema": 1,
                "model": model,
                "task": task.name,
                "environment": environment(lab.threads),
                "original": original,
                "candidates": tried,
                "delivered": delivered,
                "floor": floor,
                "notes": _notes(lab, written),
                "quantization": summary and {**summary, "layers": [w.to_json() for w in coded]},
            }
        )
        extras = _extras(
            lab, task, written, calibration(written) if written else {}, command, folder
        )
        if summary:
            extras["quantization"] = {"summary": summary, "layers": [asdict(w) for w in coded]}
        write_json(facts, folder / "report.json")
        write_html(facts, extras, folder / "report.html")
        (folder / "card.md").write_text(card(facts, extras), encoding="utf-8")
    if precisions is None:  # an earlier result's would speak of another model
        (out / "plan.yaml").unlink(missing_ok=True)
    return Report(facts, out)


def _notes(lab: Lab, written: Candidate | None) -> list[str]:
    notes = [*lab.data.notes, *lab.notes]
    if written is not None and written.artifact is not None:
        notes += [f"{written.name}: {line}" for line in runtimes.coverage(written.artifact)]
    offline = perceptual.missing()
    if offline:
        notes.append(offline)
    restless = [
        c.name
        for c in (lab.original, *lab.candidates)
        if c.latency is not None and c.latency.p90 > _RESTLESS * c.latency.p50
    ]
    if restless:
        notes.append(
            f"The machine was busy with other work: the calls of {', '.join(restless)} took very "
            "different times. Measure again when it is quiet before you believe the speed-ups."
        )
    for candidate in lab.candidates:
        if candidate.slower_than_float:
            notes.append(f"{candidate.name} is slower than float in the same runtime.")
        if candidate.error:
            notes.append(f"{candidate.name} failed: {candidate.error}")
    return notes


def _extras(
    lab: Lab,
    task: Task,
    written: Candidate | None,
    calibration: Calibration,
    command: str | None,
    folder: Path,
) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    data = lab.data
    names = f"{len(data.calibration)} samples to calibrate, {len(data.held_out)} others to judge"
    return {
        "samples": _samples(lab, task, written),
        "layers": _layers(lab, written, calibration) if written else [],
        "steps": [
            # Which channels were kept is in generator.pt2; hundreds of numbers say little here.
            {
                "name": s.name,
                "settings": dict(s.settings),
                "measured": {k: v for k, v in s.measured.items() if k not in ("kept", "reach")},
            }
            for s in (written.generator.history if written else ())
        ],
        "command": command,
        "recipe": recipe.read_text("utf-8") if recipe.exists() else None,
        "signature": lab.generator.signature.to_json(),
        "data": names,
        **_provenance(lab),
    }


def _provenance(lab: Lab) -> dict[str, str]:
    """Where the weights come from and what they may be used for; the zoo knows it of its own."""
    history = lab.generator.history
    name = history[0].settings.get("zoo") if history else None
    if name not in zoo.names():
        return {}
    entry = zoo.entry(name)
    return {
        "origin": f"{entry.origin}, from {entry.package} {entry.version}",
        "licence": entry.licence,
    }


def _samples(lab: Lab, task: Task, written: Candidate | None) -> list[dict[str, Any]]:
    if written is None or not written.outputs:
        return []
    shown = lab.data.held_out[:_SHOWN]
    outputs = (lab.reference[: len(shown)], written.outputs[: len(shown)])
    return side_by_side(lab.generator, task, shown, *outputs)


def _quantized(lab: Lab, written: Candidate) -> list[QuantizedLayer]:
    """The layers of what is delivered, weights held beside those that were quantized."""
    if not has_few_levels(written.generator):
        return []
    steps = [s.name for s in written.generator.history[len(lab.generator.history) :]]
    names = [name for name in steps if name not in STEPS]
    # Pruning refits weights: what was quantized then is not there any more.
    exact = all(name in DOOR_REWRITES for name in names)
    made = [c.generator for c in lab.candidates]
    float_form = rewritten(lab.generator, names, made) if exact else None
    return describe_layers(written.generator, float_form, power=lab.power)


def _layers(lab: Lab, written: Candidate, calibration: Calibration) -> list[dict[str, Any]]:
    """Of the delivered graph, with what each layer's 8-bit form costs and why it is what it is."""
    steps = {s.name: s.settings for s in written.generator.history}
    quantized = steps.get("quantize_linear")
    words: Mapping[str, str] = quantized.get("words", {}) if quantized else {}
    float_precision = "bf16" if "bf16" in written.precision else "fp32"
    rows = []
    for layer in layers(written.generator):
        name = layer.name
        found = calibration.get(name)
        noise_db = 10 * math.log10(lab.power / found.noise) if found and found.noise else None
        if quantized is None:
            precision, why = written.precision, "the whole network was fastest this way"
        elif found is None:
            precision, why = float_precision, "cannot run in 8 bits: its weight is computed"
        elif words[name] == FLOAT:
            precision, why = float_precision, "costs more quality in 8 bits than it saves time"
        else:
            word = found.scheme.word
            precision = "int8" if word in ("w8a8", "w8s8") else word
            why = _RANGES[found.range_by] + (_EQUALIZED if found.factors is not None else "")
        rows.append(
            {
                "name": name,
                "op": layer.op,
                "macs": layer.macs,
                "params": layer.params,
                "sensitivity_db": noise_db,
                "precision": precision,
                "why": why,
            }
        )
    return rows
