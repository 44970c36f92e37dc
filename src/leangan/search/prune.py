"""Prune a trained generator, and say what that did: widths, size, quality, speed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leangan import sources
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.channels import Coupling, by_reason, couple
from leangan.graph.cost import macs as count_macs
from leangan.measure.size import zipped_bytes
from leangan.report.json_report import finite
from leangan.report.pruning import write_pruning
from leangan.report.words import conditions, floor_words, metric_value, share
from leangan.runtimes.base import Artifact
from leangan.search.compare import runtime_names
from leangan.search.judge import RANDOM_ONLY, quality_of, sizes, task_samples
from leangan.search.pictures import before_and_after
from leangan.search.prune_latency import Narrower, Speed, Stopwatch, budget_for
from leangan.search.prune_maps import draw_groups
from leangan.search.prune_plan import AMOUNTS, PrunePlan
from leangan.tasks.arrays import FAR, draws_inputs
from leangan.techniques.calibration_inputs import draw

Progress = Callable[..., None]
_DRAWN_FROM = 8
_SHOWN = 2


@dataclass(frozen=True)
class Pruned:
    """A pruned generator, the file that it lies in, and what was seen."""

    generator: Generator
    file: Path
    facts: dict[str, Any]
    """JSON values: model, task, plan, widths, before, after, quality, speed, fixed, warnings,
    notes; see docs/cli.md."""

    def to_json(self) -> dict[str, Any]:
        """What `leangan prune --json` prints."""
        return self.facts


def prune(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    channels: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    weights: float | None = None,
    by: str | None = None,
    only: Sequence[str] = (),
    uniform: bool = False,
    reconstruct: bool = True,
    multiple: int = 8,
    per_layer: bool = False,
    pattern: str | None = None,
    on: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    report: Path | str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Pruned:
    """Prune a generator, save it, and measure it against the original.

    Exactly one amount is given.

    Args:
        source: whatever `leangan.load` takes, or a Generator.
        data: folder of typical inputs, or `zoo:photos`; None for generators that start from
            noise, or to do without: then random inputs are used and the task judges nothing.
        out: the `.pt2` file to write.
        channels: share of the prunable channels to remove, between 0 and 1.
        macs: share of the multiply-accumulates to leave.
        params: share of the parameters to leave.
        latency: share of the measured time to leave, in the runtime `on`.
        weights: share of single weights to set to zero.
        by: how they are chosen: a name of `techniques.importance.CRITERIA`, or "magnitude" or
            "random" for single weights. The best when left out.
        only: patterns of group or layer names to keep to.
        uniform: the same share of channels in every group.
        reconstruct: refit what reads the channels, so that quality survives without training.
        multiple: what kept widths are rounded to.
        per_layer: the same share of zeros in every layer.
        pattern: zeros in the pattern N:M, for example "2:4".
        on: a runtime to time original and pruned in, in turns.
        threads: CPU threads to time on; all cores when left out.
        seed: of samples and whatever is drawn.
        limit: the most samples; what the network's cost allows, 12 to 48, when left out.
        report: an HTML page to write, with the feature maps of kept and removed channels.
        command: what the user typed, for the page.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`.

    Returns:
        What was made and seen. `facts["warnings"]` says in words what did not go well.

    Raises:
        UsageError: the request cannot be: two amounts, an unknown criterion, a budget that the
            network cannot be pruned to.
        QualityNotReached: the wanted time is out of reach; how far it goes is said.
        LeanganError: the model or the data cannot be used. Nothing is written then.
    """
    say = progress or (lambda message, done=None, total=None: None)
    out = Path(out)
    if out.suffix != ".pt2":
        raise UsageError(f"A pruned generator is saved as a .pt2 file; {out.name!r} is none.")
    if latency is not None:
        if on is None:
            raise UsageError("A share of the time needs a runtime to measure it in: say which.")
        if not 0 < latency < 1:
            raise UsageError(f"latency is a share between 0 and 1, both excluded; not {latency}.")
        if any(amount is not None for amount in (channels, macs, params, weights)):
            raise UsageError(f"Give exactly one amount: {', '.join(AMOUNTS)} or latency.")
    plan = PrunePlan(
        channels=channels, macs=latency if latency is not None else macs, params=params,
        weights=weights, by=by, only=tuple(only), uniform=uniform, multiple=multiple,
        reconstruct=reconstruct, per_layer=per_layer, pattern=pattern,
    )  # fmt: skip
    if on is not None:
        runtime_names([on])
    workers = threads or os.cpu_count() or 1
    say("Loading the model")
    original = source if isinstance(source, Generator) else sources.load(source, **loading or {})
    say("Reading the data")
    must = plan.needs_data and not draws_inputs(original)
    task, samples, judged_on = task_samples(original, data, limit, seed, must=must)
    # Latents are drawn in numbers where no data is given, far from those that it is judged on.
    used = [s.inputs for s in samples.calibration] if data is not None else None
    seed = seed if data is not None else seed * FAR + FAR // 2
    tried: list[dict[str, float]] = []
    speed: Speed | None = None
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(Stopwatch(original, on, workers, say)) if on else None
        if watch is not None and latency is not None:
            narrower = Narrower(original, plan, used, seed, say)
            tried = budget_for(latency, narrower, watch)
            plan = dataclasses.replace(plan, macs=tried[-1]["macs"])
        pruned = plan.apply(original, used, seed, say)
        if watch is not None:
            speed = watch.time(pruned, "the pruned generator")
    say("Judging the pruned generator")
    coupling = couple(original) if weights is None else Coupling((), ())
    narrowed = pruned.history[-1].measured.get("widths", {})
    facts = {
        "model": str(source) if isinstance(source, str | Path) else original.name,
        "task": task.name if task else None,
        "floor": task.floor if task else None,
        "plan": plan.to_json() | ({"latency": latency} if latency else {}),
        "widths": [
            {"group": g.name, "before": g.width, "after": narrowed.get(g.name, [g.width])[-1]}
            for g in coupling.groups
        ],
        "before": _size(original),
        "after": _size(pruned),
        "quality": quality_of(
            original, pruned, task, samples.held_out, cure="prune less, or by another criterion"
        ),
        "judged_on": judged_on,
        "speed": speed.to_json() if speed else None,
        "tried": tried,
        "fixed": fixed(original, coupling),
        "notes": list(samples.notes),
        "file": str(out),
    }
    facts["warnings"] = _warnings(facts, plan)
    facts = finite(facts)
    if report is not None:
        say("Drawing the report")
        fitted_on = used[:_DRAWN_FROM] if used else None
        if fitted_on is None and draws_inputs(original):
            fitted_on = draw(original, coupling, seed=seed)
        extras = {
            "maps": draw_groups(
                original,
                coupling,
                pruned.history[-1].measured.get("kept", {}),
                fitted_on or (),
                samples.held_out[0].inputs,
            ),
            "samples": before_and_after(original, pruned, task, samples.held_out[:_SHOWN]),
            "steps": [{"name": s.name, "settings": dict(s.settings)} for s in pruned.history],
            "command": command,
        }
        write_pruning(facts, extras, report)
    say("Writing")
    pruned.save(out)
    return Pruned(pruned, out, facts)


def fixed(generator: Generator, coupling: Coupling) -> list[dict[str, Any]]:
    """What cannot be pruned, by reason: {"reason", "paths", "params", "share"}, most first."""
    whole = max(1, generator.params)
    found = []
    for reason, ones in by_reason(coupling.fixed).items():
        params = sum(o.params for o in ones)
        paths = [o.path for o in ones]
        found.append({"reason": reason, "paths": paths, "params": params, "share": params / whole})
    return sorted(found, key=lambda f: -f["params"])


def zero_share(generator: Generator) -> float:
    """Share of zeros among the weights that multiply (biases and norms do not count)."""
    weights = [p for p in generator.program.parameters() if p.dim() > 1]
    zeros = sum(int((w == 0).sum()) for w in weights)
    return zeros / max(1, sum(w.numel() for w in weights))


def _size(generator: Generator) -> dict[str, Any]:
    """Weights, cost, and bytes: of the tensors, of the file, of the file in a zip."""
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        file = generator.save(Path(folder) / "generator.pt2")
        return {
            **sizes(generator, file),
            "macs": count_macs(generator),
            "zeros": zero_share(generator),
            "zip_bytes": zipped_bytes(Artifact("torch", "fp32", (file,))),
        }


def _warnings(facts: dict[str, Any], plan: PrunePlan) -> list[str]:
    """What did not go well, each in a sentence."""
    found = []
    floor, quality = facts["floor"], facts["quality"]
    missed = [c for c in conditions(floor) if not c.holds(quality)]
    if missed:
        seen = ", ".join(
            metric_value(c.metric, quality[c.metric]["mean"]) for c in missed if c.metric in quality
        )
        found.append(
            f"The output is below the floor of the task {facts['task']}, a {floor_words(floor)}: "
            f"it is at {seen}. This is a start for training, or for a smaller amount; it is not "
            "called a success."
        )
    if facts["task"] is None:
        found.append(RANDOM_ONLY)
    before, after = facts["before"], facts["after"]
    if plan.weights is not None:
        found.append(
            "Zeros save no time: the runtimes multiply by them all the same. Only the file is "
            "smaller; --channels or --macs make it faster."
        )
    elif after["params"] >= before["params"]:
        found.append("Nothing was pruned.")
    speed = facts["speed"]
    if speed and speed["speedup"] < 1:
        found.append(
            f"It is slower than before in {speed['runtime']} {speed['precision']}: it takes "
            f"{share(1 / speed['speedup'])} of the time."
        )
    stuck = sum(f["share"] for f in facts["fixed"])
    if stuck > 0.5:
        found.append(f"{share(stuck)} of the parameters are where no channel can be removed.")
    return found
