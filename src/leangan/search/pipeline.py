"""The main job: a trained generator in, the fastest version that keeps the quality out."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from leangan import runtimes, sources, tasks
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.cost import layers
from leangan.graph.doors import DOOR_REWRITES, rewritten
from leangan.report.words import conditions
from leangan.runtimes import openvino_probe
from leangan.search import recipe as recipes
from leangan.search.candidate import Candidate
from leangan.search.choose import keeps_quality
from leangan.search.compare import runtime_names
from leangan.search.data import affordable, data_path
from leangan.search.lab import Lab, Progress
from leangan.search.mixed import NARROW, SIGNED, WORD, Asked, Times, attempt_mixed
from leangan.search.precision_plan import LayerFacts, PrecisionPlan, calibrate_plan
from leangan.search.prune_plan import PrunePlan
from leangan.search.recipe import Recipe
from leangan.search.result import Report, write_result
from leangan.search.rewrites import base_for_8_bits, rewrites_that_pay
from leangan.search.students import make_student
from leangan.search.train import finetune
from leangan.tasks.base import Data, Task
from leangan.tasks.calibration import check_inputs
from leangan.tasks.pictures import flat_samples
from leangan.techniques.calibrate import calibrate_each
from leangan.techniques.codebook import codebook
from leangan.techniques.layer_code import Calibration
from leangan.techniques.placement import quantizable
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.scheme import FLOAT, Scheme
from leangan.training.settings import TrainSettings

_DEFAULT_TARGET_DB = 40.0
_ZERO_POINTS_COST = 1.1
"""How many times longer they let convolutions take where others are tried without."""

_LEADS = "openvino", "onnxruntime"
"""The first of these that is tried has its rewrites and its mixes of precisions searched: the
fastest on a CPU, and what is quickly built of each try."""


@dataclass(frozen=True)
class _Search:
    """Everything that the stages share."""

    lab: Lab
    generator: Generator
    task: Task
    data: Data
    floor: str
    folder: Path | None
    """Where the data lies."""
    out: Path
    seed: int
    limit: int | None
    seconds: float | None = None
    """To train, where there is time."""


@dataclass(frozen=True)
class _Found:
    """What the search learned of the layers, for the report and for plan.yaml."""

    calibrations: Mapping[str, Calibration]
    """By precision; that of a recipe that is followed has the precisions of its layers."""
    times: Mapping[str, Times]
    """By runtime."""
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """Of candidates that were trained, by their names."""


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
    seconds: float | None = None,
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
            that compile for minutes or are meant for other machines. With a runtime whose files
            hold one size, everything is done at the typical one.
        threads: CPU threads that everything is measured on; all cores when left out.
        seed: of samples and random inputs.
        limit: the most samples; what the network's cost allows, 12 to 48, when left out.
        recipe: a recipe.yaml to follow instead of searching.
        seconds: to train as well, for forms that are faster than what needs no training.
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
    _check_timed(names)
    if followed:
        seed, limit = followed.seed, followed.limit
    say("Loading the model")
    generator = source if isinstance(source, Generator) else sources.load(source, **loading)
    for name in names:  # then all are compared at that one size
        generator = runtimes.fitting(generator, runtimes.get(name))
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
    if followed and (followed.prune or followed.student):
        _check_order(generator, recipe)
    workers = threads or os.cpu_count() or 1
    with Lab(generator, task, samples, workers, say) as lab:
        if keep:
            _check_metrics(keep, lab.original)
        search = _Search(
            lab, generator, task, samples, floor, data_path(data), Path(out), seed, limit, seconds
        )
        found = _follow(search, followed) if followed else _explore(search, names)
        lab.time()
        return write_result(
            lab,
            task,
            Path(out),
            model=str(source) if isinstance(source, str | Path) else generator.name,
            floor=floor,
            calibration=lambda c: _codes_of(c, found),
            recipe=lambda c: found.recipes.get(c.name) or _recipe_of(c, followed, seed, limit),
            plan=lambda c: _plan_of(c, found, lab.power),
            command=command,
        )


def _check_timed(names: Sequence[str]) -> None:
    """The fastest cannot be chosen among those whose time says nothing."""
    for name in names:
        if not runtimes.get(name).timed:
            raise UsageError(
                f"What is written for {name} runs in a simulator here, so compress cannot tell how "
                f"fast it is. Write it with leangan export --to {name}."
            )


def _check_order(generator: Generator, recipe: Path | None) -> None:
    """What changes the network's size comes first: known before anything is run."""
    if generator.quantized:
        raise UsageError(
            f"{recipe} prunes or makes a student, and {generator.name} is quantized already: give "
            "the float generator. The order is student, prune, rewrite, quantize."
        )


def _check_metrics(keep: str, original: Candidate) -> None:
    """A metric that nobody measures could never be reached: say so before searching."""
    known = [*original.quality, "speedup", "smaller"]
    for condition in conditions(keep):
        if condition.metric not in known:
            raise UsageError(
                f"{condition.metric!r} is not measured here; --keep may name {', '.join(known)}."
            )


def _explore(search: _Search, names: Sequence[str]) -> _Found:
    """Float forms first, with the rewrites that pay; then 8 bits on top of what won."""
    lab, generator = search.lab, search.generator
    plain: dict[str, Candidate] = {}
    for name in names:
        for precision in runtimes.get(name).precisions(quantized=False):
            if (name, precision) == ("torch", "fp32"):
                continue  # that is the original itself
            title = f"{name} {precision}"
            plain[name] = lab.attempt(Candidate(title, name, precision, generator, plain=True))
    lead = next((name for name in _LEADS if name in plain), None)
    if lead:
        plain[lead] = rewrites_that_pay(lab, plain[lead])
        generator = plain[lead].generator
    where = [n for n in names if runtimes.get(n).precisions(quantized=True)]
    if not where or not quantizable(generator.module()):
        return _Found({}, {})  # float forms are enough
    if lead is not None and lead in where:
        plain[lead] = base_for_8_bits(lab, search.generator, plain[lead])
        generator = plain[lead].generator
    precisions, cost = _precisions(lab) if "openvino" in where else ((WORD,), 1.0)
    calibrations = _calibrated(search, generator, precisions)
    wanted = conditions(search.floor)
    decibels = [c.value for c in wanted if c.metric in ("psnr", "snr")]
    asked = Asked(
        lab,
        generator,
        calibrations,
        _macs(generator),
        max(decibels, default=_DEFAULT_TARGET_DB),
        min((c.value for c in wanted if c.metric == "psnr_y_lost"), default=None),
        plain[lead] if lead else None,
        cost,
    )
    # Elsewhere 8 bits seldom pay on generators: one careful mix shows it.
    usual = precisions[-1]
    others = dataclasses.replace(asked, calibrations={usual: calibrations[usual]})
    times = {
        name: attempt_mixed(
            asked if name == "openvino" else others, plain.get(name), name, careful=name != lead
        ).times
        for name in where
    }
    recipes = {}
    if search.seconds and lead is not None and lead in where:
        words = {} if asked.main == WORD else dict.fromkeys(calibrations[asked.main], asked.main)
        recipes = _train(search, plain[lead], search.seconds, words)
    return _Found(calibrations, times, recipes)


def _precisions(lab: Lab) -> tuple[tuple[str, ...], float]:
    """Which ones OpenVINO's kernels like here, the best first, and what a zero point costs them."""
    cost = openvino_probe.zero_point_cost(lab.threads)
    if openvino_probe.saturates():
        lab.notes.append(
            "Weights have 7 bits: without VNNI, OpenVINO's kernels clip the sums of larger ones on "
            "this CPU."
        )
        return (NARROW,), cost
    return (SIGNED, WORD) if cost > _ZERO_POINTS_COST else (WORD,), cost


def _calibrated(
    search: _Search, generator: Generator, precisions: Sequence[str]
) -> dict[str, Calibration]:
    """Of all layers, by precision."""
    schemes = {word: Scheme().at(word) for word in precisions}
    return calibrate_each(generator, schemes=schemes, **_calibrating(search))


def _calibrating(search: _Search) -> dict[str, Any]:
    """What every calibration is given: inputs, their names, whom to tell."""
    samples = (*search.data.calibration, *flat_samples(search.generator))
    return {
        "data": [sample.inputs for sample in samples],
        "names": [sample.name for sample in samples],
        "progress": partial(search.lab.progress, "Calibrating 8 bits"),
    }


def _macs(generator: Generator) -> dict[str, int]:
    """Multiply-accumulates by layer name."""
    costs: dict[str, int] = {}
    for layer in layers(generator):
        costs[layer.name] = costs.get(layer.name, 0) + layer.macs
    return costs


def _follow(search: _Search, recipe: Recipe) -> _Found:
    generator, calibration = _made(search, recipe)
    made_of = f", {recipe.student}" if recipe.student else ""
    name = f"{recipe.runtime} {recipe.precision}{made_of}"
    search.lab.attempt(Candidate(name, recipe.runtime, recipe.precision, generator))
    return _Found({WORD: calibration}, {})


def _made(search: _Search, recipe: Recipe) -> tuple[Generator, Calibration]:
    """What a recipe makes of the generator, and the numbers of its 8 bits."""
    generator, lab = search.generator, search.lab
    if recipe.student:
        samples = search.data.calibration
        generator = make_student(recipe.student, generator, samples, recipe.seed, lab.progress)
        generator = _trained(search, recipe, generator, "student")
    if recipe.prune:
        used = [sample.inputs for sample in search.data.calibration]
        generator = recipe.prune.apply(generator, used, recipe.seed, lab.progress)
        generator = _trained(search, recipe, generator, "pruned")
    generator = rewritten(generator, recipe.rewrites)
    calibration: Calibration = {}
    if recipe.codebook:
        lab.progress("Fitting codebooks")
        inputs = [sample.inputs for sample in search.data.calibration]
        generator = codebook(generator, recipe.codebook, data=inputs, seed=recipe.seed)
        generator = _trained(search, recipe, generator, "coded")
    if recipe.quantize:
        plan = PrecisionPlan(recipe.layers)
        calibration = calibrate_plan(generator, plan=plan, **_calibrating(search))
        kept = [name for name in calibration if plan.word(name) == FLOAT]
        generator = quantize(generator, calibration, keep_float=kept)
        generator = _trained(search, recipe, generator, "quantized")
    return generator, calibration


def _train(
    search: _Search, base: Candidate, seconds: float, words: Mapping[str, str]
) -> dict[str, Recipe]:
    """What there is time for: a form with all layers in 8 bits that training makes good enough.

    Where 8 bits alone keep the quality already, half of the channels' work goes first.

    Args:
        search: has tried everything that needs no training.
        base: the float candidate with the rewrites that pay in 8 bits.
        seconds: to train, in all.
        words: precisions of the layers, where they are others than usual.

    Returns:
        By the candidate's name, the recipe that made it.
    """
    lab = search.lab
    precision = runtimes.get(base.runtime).precisions(quantized=True)[-1]
    bold = next((c for c in lab.candidates if c.name == f"{base.runtime} {precision}"), None)
    enough = bold is not None and keeps_quality(bold.quality, search.floor)
    steps = {s.name for s in base.generator.history}
    recipe = Recipe(
        base.runtime,
        precision,
        tuple(n for n in DOOR_REWRITES if n in steps),
        quantize=True,
        layers=words,
        seed=search.seed,
        limit=search.limit,
        prune=PrunePlan(macs=0.5) if enough else None,
        finetune={"seconds": seconds / 2 if enough else seconds},
    )
    title = f"{base.runtime} {precision}, {'half the MACs, ' if enough else ''}trained"
    generator, _ = _made(search, recipe)
    lab.attempt(Candidate(title, base.runtime, precision, generator))
    return {title: recipe}


def _trained(search: _Search, recipe: Recipe, generator: Generator, name: str) -> Generator:
    """Trained towards the original, where the recipe says so; an interrupted run goes on."""
    if recipe.finetune is None:
        return generator
    return finetune(
        generator,
        search.folder,
        search.out / "training" / name,
        settings=TrainSettings(**{"seed": recipe.seed, **recipe.finetune}),
        teacher=search.generator,
        limit=recipe.limit,
        resume=True,
        threads=search.lab.threads,
        progress=search.lab.progress,
    ).generator


def _recipe_of(
    candidate: Candidate, followed: Recipe | None, seed: int, limit: int | None
) -> Recipe:
    steps: Mapping[str, Any] = {s.name: s.settings for s in candidate.generator.history}
    words = _words_of(candidate)
    return Recipe(
        candidate.runtime,
        candidate.precision,
        tuple(n for n in DOOR_REWRITES if n in steps),
        "quantize_linear" in steps,
        {n: w for n, w in words.items() if w != WORD},
        seed,
        limit,
        followed.prune if followed else None,
        followed.student if followed else None,
        followed.codebook if followed else None,
        followed.finetune if followed else None,
    )


def _codes_of(candidate: Candidate, found: _Found) -> Calibration:
    """The numbers of a candidate's layers, or what they would be."""
    if not found.calibrations:
        return {}
    main = next(iter(found.calibrations.values()))
    words = _words_of(candidate)
    return {n: found.calibrations.get(words.get(n, ""), main)[n] for n in main}


def _words_of(candidate: Candidate) -> Mapping[str, str]:
    steps: Mapping[str, Any] = {s.name: s.settings for s in candidate.generator.history}
    found: Mapping[str, str] = steps.get("quantize_linear", {}).get("words", {})
    return found


def _plan_of(candidate: Candidate, found: _Found, power: float) -> PrecisionPlan | None:
    """The precisions of a quantized candidate's layers, with what the search knows of each."""
    words = _words_of(candidate)
    if not words:
        return None
    times = found.times.get(candidate.runtime) or {}
    word = next((w for w in words.values() if w != FLOAT), WORD)
    costs = _macs(candidate.generator)
    whole = sum(costs.values()) or 1
    facts = {
        name: LayerFacts(
            10 * math.log10(power / code.noise) if code.noise else None,
            times.get(FLOAT, {}).get(name),
            times.get(word, {}).get(name),
            costs.get(name, 0) / whole,
        )
        for name, code in _codes_of(candidate, found).items()
    }
    return PrecisionPlan(words, word, candidate.generator.name, facts=facts)
