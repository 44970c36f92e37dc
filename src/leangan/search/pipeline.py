"""The main job: a trained generator in, the fastest version that keeps the quality out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leangan import runtimes, sources, tasks
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.cost import layers
from leangan.graph.doors import ALTERNATIVES, DOOR_REWRITES
from leangan.report.words import conditions
from leangan.search import recipe as recipes
from leangan.search.candidate import Candidate
from leangan.search.compare import runtime_names
from leangan.search.data import affordable, data_path
from leangan.search.lab import Lab, Progress
from leangan.search.plans import Plan, plans
from leangan.search.prune_plan import PrunePlan
from leangan.search.recipe import Recipe
from leangan.search.result import Report, write_result
from leangan.tasks.base import Data, Task
from leangan.tasks.calibration import check_inputs
from leangan.tasks.pictures import flat_samples
from leangan.techniques.calibrate import Calibration, calibrate
from leangan.techniques.placement import quantizable
from leangan.techniques.quantize_linear import quantize

_HELPS = 1.02
"""A rewrite that makes things less than 2% faster is noise, and is left out."""
_MARGINS_DB = (0.7, 5.0)
"""Above the floor: predictions are made on small inputs, and a choice of qualities is useful."""
_DEFAULT_TARGET_DB = 40.0


@dataclass(frozen=True)
class _Search:
    """Everything that the stages share."""

    lab: Lab
    generator: Generator
    task: Task
    data: Data
    floor: str


def compress(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    keep: str | None = None,
    on: Sequence[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    recipe: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> Report:
    """Find the fastest version of a generator that keeps its quality, and prove it.

    Args:
        source: whatever `leangan.load` takes, or a Generator.
        data: folder of typical inputs, or `zoo:photos`; None for generators that start from noise.
        out: the folder for the result. Files of an earlier result in it are replaced.
        keep: the floor, for example "psnr>=45,ssim>=0.99"; besides the task's metrics it may
            name `speedup` and `smaller`. The task's own when left out.
        on: names of the runtimes to try; when left out all that are installed, but for those
            that compile for minutes.
        threads: CPU threads that everything is measured on; all cores when left out.
        seed: of samples and random inputs.
        limit: the most samples; what the network's cost allows, 12 to 48, when left out.
        recipe: a recipe.yaml to follow instead of searching.
        command: what the user typed, for the report.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`.

    Returns:
        The report; `delivered` in it is None when nothing reached `keep`, and the best that was
        found lies in `out` all the same.

    Raises:
        LeanganError: the model, the data or the request cannot be used; nothing is written then.
    """
    say = progress or (lambda message, done=None, total=None: None)
    followed = recipes.read(recipe) if recipe else None
    conditions(keep)  # a malformed floor is better known now than in a minute
    names = runtime_names([followed.runtime] if followed else on)
    if followed:
        seed, limit = followed.seed, followed.limit
    say("Loading the model")
    generator = source if isinstance(source, Generator) else sources.load(source, **loading)
    task = tasks.infer(generator)
    say("Reading the data")
    samples = task.data(
        generator,
        data_path(data),
        limit=limit or affordable(generator),
        seed=seed,
    )
    check_inputs(generator, (*samples.calibration, *samples.held_out))
    floor = keep or task.floor
    if followed and followed.prune:
        _check_order(generator, recipe)
    workers = threads or os.cpu_count() or 1
    with Lab(generator, task, samples, workers, say) as lab:
        if keep:
            _check_metrics(keep, lab.original)
        search = _Search(lab, generator, task, samples, floor)
        calibration = _follow(search, followed) if followed else _explore(search, names)
        lab.time()
        return write_result(
            lab,
            task,
            Path(out),
            model=str(source) if isinstance(source, str | Path) else generator.name,
            floor=floor,
            calibration=calibration,
            recipe=lambda c: _recipe_of(c, followed.prune if followed else None, seed, limit),
            command=command,
        )


def _check_order(generator: Generator, recipe: Path | None) -> None:
    """Pruning comes first: known before anything is run."""
    if generator.quantized:
        raise UsageError(
            f"{recipe} prunes, and {generator.name} is quantized already: give the float "
            "generator. The order is prune, rewrite, quantize."
        )


def _check_metrics(keep: str, original: Candidate) -> None:
    """A metric that nobody measures could never be reached: say so before searching."""
    known = [*original.quality, "speedup", "smaller"]
    for condition in conditions(keep):
        if condition.metric not in known:
            raise UsageError(
                f"{condition.metric!r} is not measured here; --keep may name {', '.join(known)}."
            )


def _explore(search: _Search, names: Sequence[str]) -> Calibration:
    """Float forms first, with the rewrites that pay; then 8 bits on top of what won."""
    lab, generator = search.lab, search.generator
    fastest: Candidate | None = None
    for name in names:
        for precision in runtimes.get(name).precisions(quantized=False):
            if (name, precision) == ("torch", "fp32"):
                continue  # that is the original itself
            candidate = lab.attempt(
                Candidate(f"{name} {precision}", name, precision, generator, plain=True)
            )
            if name == "openvino":
                fastest = candidate
    rewritten = _rewrites_that_pay(lab, fastest) if fastest is not None else generator
    where = [n for n in names if runtimes.get(n).precisions(quantized=True)]
    if not where or not quantizable(rewritten.module()):
        return {}  # float forms are enough
    calibration = _calibrated(search, rewritten)
    for name in where:
        bold, *careful = _plans(search, rewritten, calibration)
        if name != "openvino":
            # Elsewhere 8 bits seldom pay on generators: one careful try shows it.
            _attempt_8_bits(lab, rewritten, calibration, name, careful[-1] if careful else bold)
            continue
        first = _attempt_8_bits(lab, rewritten, calibration, name, bold)
        # What the first one shows of the predictions corrects those of the others.
        seen = first.quality.get("psnr" if "psnr" in first.quality else "snr")
        too_high = max(0.0, bold.predicted_db - seen["mean"]) if seen else 0.0
        for plan in _plans(search, rewritten, calibration, too_high)[1:]:
            _attempt_8_bits(lab, rewritten, calibration, name, plan)
    return calibration


def _attempt_8_bits(
    lab: Lab, generator: Generator, calibration: Calibration, runtime: str, plan: Plan
) -> Candidate:
    precision = runtimes.get(runtime).precisions(quantized=True)[-1]
    lab.progress(f"Quantizing for {runtime}{plan.name}")
    made = quantize(generator, calibration, keep_float=plan.keep_float)
    return lab.attempt(Candidate(f"{runtime} {precision}{plan.name}", runtime, precision, made))


def _calibrated(search: _Search, generator: Generator) -> Calibration:
    used = (*search.data.calibration, *flat_samples(search.generator))
    return calibrate(
        generator,
        [sample.inputs for sample in used],
        names=[sample.name for sample in used],
        progress=lambda done, of: search.lab.progress("Calibrating 8 bits", done, of),
    )


def _rewrites_that_pay(lab: Lab, plain: Candidate) -> Generator:
    """Exact rewrites, each kept only if the runtime is measurably faster with it."""
    best, kept = plain, tuple[str, ...]()
    bases = {}
    for name, rewrite in DOOR_REWRITES.items():
        lab.progress(f"Rewriting: {name}")
        bases[name] = best, kept
        tried = [bases[name]]
        if ALTERNATIVES.get(name) in kept:
            tried.append(bases[ALTERNATIVES[name]])
        for base, before in tried:
            made = rewrite(base.generator)
            if made is base.generator:
                continue
            names = (*before, name)
            title = f"{plain.runtime} {plain.precision} + {', '.join(names)}"
            candidate = lab.attempt(Candidate(title, plain.runtime, plain.precision, made))
            if lab.faster(candidate, best) >= _HELPS:
                best, kept = candidate, names
    return best.generator


def _plans(
    search: _Search, rewritten: Generator, calibration: Calibration, too_high: float = 0.0
) -> list[Plan]:
    """All layers in 8 bits first, then plans above the floor.

    Args:
        search: what is asked for.
        rewritten: the float generator that is to be quantized.
        calibration: of its layers.
        too_high: decibels that predictions were seen to be too high by.
    """
    decibels = [c for c in conditions(search.floor) if c.metric in ("psnr", "snr")]
    target = max((c.value for c in decibels), default=_DEFAULT_TARGET_DB)
    costs: dict[str, int] = {}
    for layer in layers(rewritten):
        costs[layer.name] = costs.get(layer.name, 0) + layer.macs
    return plans(calibration, costs, search.lab.power, [target + too_high + m for m in _MARGINS_DB])


def _follow(search: _Search, recipe: Recipe) -> Calibration:
    generator, lab = search.generator, search.lab
    if recipe.prune:
        used = [sample.inputs for sample in search.data.calibration]
        generator = recipe.prune.apply(generator, used, recipe.seed, lab.progress)
    for name in recipe.rewrites:
        generator = DOOR_REWRITES[name](generator)
    calibration: Calibration = {}
    if recipe.quantize:
        calibration = _calibrated(search, generator)
        generator = quantize(generator, calibration, keep_float=recipe.keep_float)
    lab.attempt(
        Candidate(
            f"{recipe.runtime} {recipe.precision}", recipe.runtime, recipe.precision, generator
        )
    )
    return calibration


def _recipe_of(
    candidate: Candidate, prune: PrunePlan | None, seed: int, limit: int | None
) -> Recipe:
    steps: Mapping[str, Any] = {s.name: s.settings for s in candidate.generator.history}
    quantized = steps.get("quantize_linear")
    return Recipe(
        candidate.runtime,
        candidate.precision,
        tuple(n for n in DOOR_REWRITES if n in steps),
        quantized is not None,
        tuple(quantized["keep_float"]) if quantized else (),
        seed,
        limit,
        prune,
    )
