"""8-bit candidates of one runtime: all layers first, then the mixes that its own clock asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from leangan import runtimes
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.search.plans import Plan, fastest, groups, uniform
from leangan.techniques.layer_code import Calibration
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.scheme import FLOAT

WORD = "w8a8"
"""What is usual; see `Asked.word`."""
SIGNED = "w8s8"
"""Where runtimes are faster so."""
NARROW = "w7a8"
"""Where kernels would clip large sums of 8 bits."""
_MARGINS_DB = (0.7, 5.0)
"""Above the floor: predictions are made on small inputs, and a choice of qualities is useful."""
_RETRIES = 2
"""Further plans where one fell short of the floor."""
_WORTH = 0.93
"""A plan that leaves more than this share of the float time is not tried: float is delivered when
it is within 5% of the fastest, and a mix has changes of form that its layers alone do not show."""
_MOST_OFF_DB = 2.0
"""Predictions that were too low are believed to be so by this at most."""
_FAR_BEHIND = 2.0
"""Where float takes so many times as long as a float form of another runtime, 8 bits are not
tried: they would have to halve the time to be as fast as what the other does in float."""
_LEAST_LOST = 1e-3
"""Decibels against ground truth below which nothing is aimed."""
_ROUNDS = 3
"""How often float and 8 bits are timed in turns; what disturbs one round spares another."""

Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by layer, by precision and for "float"."""


@dataclass(frozen=True)
class Asked:
    """What all runtimes are to quantize, and what for."""

    lab: Lab
    generator: Generator
    """Float, with the rewrites that pay."""
    calibrations: Mapping[str, Calibration]
    """By precision in 8 bits (see `scheme.parse_word`), the one that kernels like best first."""
    macs: Mapping[str, int]
    """By layer."""
    floor_db: float
    """PSNR or signal-to-noise ratio that is to be kept."""
    most_lost: float | None = None
    """Decibels of PSNR-Y that may be lost against ground truth, where that was said."""
    rival: Candidate | None = None
    """A float form that the others must come near, None where there is none."""
    zero_point_cost: float = 1.0
    """How many times longer a layer takes whose input has a zero point."""
    made: dict[tuple[tuple[str, str], ...], Generator] = field(default_factory=dict)
    """By the precisions of the layers: runtimes want many a form that another had already."""

    @property
    def main(self) -> str:
        """The precision that is tried for all layers."""
        return next(iter(self.calibrations))


@dataclass(frozen=True)
class Mixed:
    """What was tried in one runtime."""

    times: Times
    """Empty where the runtime does not tell."""
    tried: tuple[tuple[Plan, Candidate], ...]
    """In order, all layers in 8 bits first; nothing where that cannot be the fastest."""


def attempt_mixed(asked: Asked, plain: Candidate | None, runtime: str, *, careful: bool) -> Mixed:
    """Try all layers in 8 bits, then the fastest plans that are predicted to keep the quality.

    The first candidate gives the runtime's own time of each layer in 8 bits, and shows how far
    the predicted quality is off; each further one corrects that again.

    Args:
        asked: see `Asked`.
        plain: the float candidate of that runtime, None where there is none.
        runtime: its name.
        careful: try only the plan with the most quality to spare, and no other if it falls short.
    """
    power = asked.lab.power
    behind = _behind(asked, plain)
    if behind > _FAR_BEHIND:
        assert asked.rival is not None
        asked.lab.notes.append(
            f"8 bits were not tried in {runtime}, where float takes more than {_FAR_BEHIND:.0f} "
            f"times as long as {asked.rival.name}."
        )
        return Mixed({}, ())
    bold = uniform(asked.calibrations[asked.main], {}, asked.main, power)
    first = _attempt(asked, runtime, bold)
    times = _layer_times(asked, plain, first)
    choices = groups(asked.calibrations, {**_guessed(asked, times), **times}, asked.macs)
    slow = sum(group.options[0].ms for group in choices)
    too_high = _too_high(bold, first, 0.0)
    tried = [(bold, first)]
    floor_db = max(asked.floor_db, _needed_db(asked, plain, first))
    retries = 0 if careful else _RETRIES
    for margin in _MARGINS_DB[-1:] if careful else _MARGINS_DB:
        while True:
            plan = fastest(choices, power, floor_db + margin + too_high)
            if any(plan.words == p.words for p, _ in tried) or plan.ms > _WORTH * slow:
                break
            made = _attempt(asked, runtime, plan)
            tried.append((plan, made))
            too_high = _too_high(plan, made, too_high)
            needed = max(floor_db, _needed_db(asked, plain, made))
            if made.error or not retries or (_seen_db(made) or math.inf) >= needed:
                break
            floor_db = needed
            retries -= 1
    return Mixed(times, tuple(tried))


def _behind(asked: Asked, made: Candidate | None) -> float:
    """How many times as long as the rival it takes; 1 where there is nothing to compare."""
    if asked.rival is None or made is None or made is asked.rival:
        return 1.0
    return asked.lab.behind(made, asked.rival)


def _attempt(asked: Asked, runtime: str, plan: Plan) -> Candidate:
    precision = runtimes.get(runtime).precisions(quantized=True)[-1]
    asked.lab.progress(f"Quantizing for {runtime}{plan.name}")
    name = _free_name(f"{runtime} {precision}{plan.name}", asked.lab.candidates)
    return asked.lab.attempt(Candidate(name, runtime, precision, _quantized(asked, plan)))


def _quantized(asked: Asked, plan: Plan) -> Generator:
    key = tuple(plan.words.items())
    if key not in asked.made:
        codes = {n: asked.calibrations.get(w) for n, w in plan.words.items()}
        calibration = {n: (c or asked.calibrations[asked.main])[n] for n, c in codes.items()}
        asked.made[key] = quantize(asked.generator, calibration, keep_float=plan.keep_float)
    return asked.made[key]


def _free_name(name: str, candidates: Sequence[Candidate]) -> str:
    """Two plans may leave equally many layers in float, but not the same ones."""
    taken = {c.name for c in candidates}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} (choice {number})"
    return free


def _layer_times(asked: Asked, plain: Candidate | None, first: Candidate) -> Times:
    """Of each layer in float, the least that was seen, and in 8 bits what that makes of it.

    Machines have spells in which they are half as fast: only what was timed side by side compares.
    """
    asked.lab.progress("Timing each layer")
    rounds: list[Times] = []
    for _ in range(_ROUNDS):
        found = {}
        for word, candidate in ((FLOAT, plain), (asked.main, first)):
            if candidate is None or candidate.worker is None:
                return {}
            try:
                found[word] = candidate.worker.layer_times()
            except LeanganError:
                return {}  # a runtime that cannot profile still runs: work stands for time
        rounds.append(found)
    slow = {n: min(r[FLOAT].get(n, math.inf) for r in rounds) for n in rounds[0][FLOAT]}
    quick = {n: min(r[asked.main].get(n, math.inf) for r in rounds) for n in rounds[0][asked.main]}
    for name in set(slow) & set(quick):
        both = [(r[FLOAT].get(name), r[asked.main].get(name)) for r in rounds]
        ratios = [b / a for a, b in both if a and b]
        if ratios:
            quick[name] = slow[name] * median(ratios)
    return {FLOAT: slow, asked.main: quick} if slow and quick else {}


def _guessed(asked: Asked, times: Times) -> Times:
    """What layers take in the precisions that were not tried for all of them."""
    known = times.get(asked.main)
    if not known:
        return {}
    found = {}
    for word, calibration in asked.calibrations.items():
        slower = {n for n, code in calibration.items() if code.input_zero_point}
        found[word] = {
            n: ms * (asked.zero_point_cost if n in slower else 1.0) for n, ms in known.items()
        }
    return found


def _too_high(plan: Plan, made: Candidate, before: float) -> float:
    """Decibels that predictions are seen to be too high by, as before where nothing was seen."""
    seen = _seen_db(made)
    if seen is None or not math.isfinite(plan.predicted_db):
        return before
    return max(-_MOST_OFF_DB, plan.predicted_db - seen)


def _needed_db(asked: Asked, plain: Candidate | None, made: Candidate) -> float:
    """The PSNR at which no more is lost against ground truth than may be, by what `made` loses.

    What 8 bits lose goes with the power of their noise, as long as both are small; what the float
    form loses already (bfloat16, say) stays.
    """
    seen, lost = _seen_db(made), _lost(made)
    if asked.most_lost is None or seen is None or lost is None or lost <= asked.most_lost:
        return -math.inf
    before = max(0.0, (_lost(plain) if plain is not None else None) or 0.0)
    own, left = (max(x - before, _LEAST_LOST) for x in (lost, asked.most_lost))
    return seen + 10 * math.log10(own / left)


def _lost(candidate: Candidate) -> float | None:
    found = candidate.quality.get("psnr_y_lost")
    return None if found is None or found["mean"] is None else float(found["mean"])


def _seen_db(candidate: Candidate) -> float | None:
    found = candidate.quality.get("psnr") or candidate.quality.get("snr")
    return None if not found or found["mean"] is None else float(found["mean"])
