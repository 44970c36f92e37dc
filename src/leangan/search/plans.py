"""Which precision each layer gets, so that the output keeps its quality at the least time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leangan.search.solve import cheapest
from leangan.techniques.layer_code import Calibration
from leangan.techniques.scheme import FLOAT

_FASTER = 0.97
"""A layer that takes more than this share of its float time gains nothing that can be measured."""
_GUESS = 0.5
"""The share of its float time that a layer takes in 8 bits where no runtime tells."""


@dataclass(frozen=True)
class Plan:
    """One choice of a precision for each layer."""

    words: Mapping[str, str]
    """By layer; see `scheme.parse_word`, or "float"."""
    predicted_db: float
    """Of the output against the float generator's, from the noise of each layer alone."""
    ms: float
    """That the layers take together."""

    @property
    def keep_float(self) -> tuple[str, ...]:
        """The layers that are left alone."""
        return tuple(name for name, word in self.words.items() if word == FLOAT)

    @property
    def name(self) -> str:
        """For people: "", ", 2 layers float", ", 1 layer float, 5 layers w8a8"."""
        counts = Counter(self.words.values())
        floats = counts.pop(FLOAT, 0)
        few = [(floats, FLOAT), *((n, word) for word, n in counts.most_common()[1:])]
        return "".join(f", {n} layer{'s' if n > 1 else ''} {word}" for n, word in few if n)


@dataclass(frozen=True)
class Option:
    """What the layers of one group take and spoil in one precision."""

    word: str
    ms: float
    noise: float
    """Mean squared error that they add to the output."""


@dataclass(frozen=True)
class Group:
    """Layers that read the same values, and so have one precision."""

    layers: tuple[str, ...]
    options: tuple[Option, ...]
    """Float first."""


def groups(
    calibrations: Mapping[str, Calibration],
    times: Mapping[str, Mapping[str, float]],
    macs: Mapping[str, int],
) -> list[Group]:
    """The choices that there are.

    A precision is offered to a group only where it is measurably faster than float: what brings
    no time is not worth any noise.

    Args:
        calibrations: by precision, each of all layers.
        times: milliseconds by layer, by precision and for "float". Layers that a runtime did not
            tell are taken to be as fast per multiply-accumulate as the others; where it told
            nothing, multiply-accumulates stand for time.
        macs: multiply-accumulates by layer name.
    """
    first = next(iter(calibrations.values()))
    by_source: dict[str, list[str]] = {}
    for name, layer in first.items():
        by_source.setdefault(layer.source, []).append(name)
    told = {
        word: _all_times(times.get(word, {}), macs, list(first), 1.0 if word == FLOAT else _GUESS)
        for word in (FLOAT, *calibrations)
    }
    found = []
    for names in by_source.values():
        slow = Option(FLOAT, sum(told[FLOAT][n] for n in names), 0.0)
        options = [slow]
        for word, calibration in calibrations.items():
            ms = sum(told[word][n] for n in names)
            if ms < _FASTER * slow.ms:
                options.append(Option(word, ms, sum(calibration[n].noise for n in names)))
        found.append(Group(tuple(names), tuple(options)))
    return found


def fastest(choices: Sequence[Group], power: float, least_db: float) -> Plan:
    """The plan that takes the least time at a quality.

    The noise of layers is taken to add up, which holds well for rounding (within a decibel on the
    networks tried).

    Args:
        choices: see `groups`; float is one of the options of each, so that there always is a plan.
        power: what the noise is compared with: the squared range for PSNR, the mean square of the
            output for a signal-to-noise ratio.
        least_db: the quality.
    """
    pairs = [[(o.ms, o.noise) for o in group.options] for group in choices]
    picks = cheapest(pairs, power / 10 ** (least_db / 10))
    assert picks is not None
    return _plan(choices, picks, power)


def cleanest(choices: Sequence[Group], power: float, most_ms: float) -> Plan | None:
    """The reverse: the best quality at a time of the layers.

    Returns:
        None when even the fastest options take longer.
    """
    pairs = [[(o.noise, o.ms) for o in group.options] for group in choices]
    picks = cheapest(pairs, most_ms)
    return None if picks is None else _plan(choices, picks, power)


def uniform(calibration: Calibration, times: Mapping[str, float], word: str, power: float) -> Plan:
    """All layers in one precision.

    Args:
        calibration: in that precision.
        times: milliseconds by layer.
        word: the precision.
        power: see `fastest`.
    """
    noise = sum(layer.noise for layer in calibration.values())
    return Plan(dict.fromkeys(calibration, word), _db(power, noise), sum(times.values()))


def _plan(choices: Sequence[Group], picks: Sequence[int], power: float) -> Plan:
    chosen = [group.options[pick] for group, pick in zip(choices, picks, strict=True)]
    words = {
        name: option.word
        for group, option in zip(choices, chosen, strict=True)
        for name in group.layers
    }
    return Plan(words, _db(power, sum(o.noise for o in chosen)), sum(o.ms for o in chosen))


def _db(power: float, noise: float) -> float:
    return 10 * math.log10(power / noise) if noise else math.inf


def _all_times(
    told: Mapping[str, float], macs: Mapping[str, int], names: Sequence[str], guess: float
) -> dict[str, float]:
    """The times that were told, and at the same speed those that were not."""
    known = [n for n in names if n in told]
    work = sum(macs.get(n, 0) for n in known)
    rate = sum(told[n] for n in known) / work if work else guess
    return {n: told[n] if n in told else rate * macs.get(n, 0) for n in names}
