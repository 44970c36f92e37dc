"""Mixes are asked of the clock, corrected by what was seen, and few are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leangan.errors import LeanganError
from leangan.search import mixed
from leangan.search.mixed import Asked, attempt_mixed
from leangan.techniques.grid import Grid
from leangan.techniques.layer_code import LayerCode
from leangan.techniques.scheme import Scheme

GRID = Grid(0, torch.ones(1), torch.zeros(1, dtype=torch.int64), -127, 127)
NOISE = {"a": 1e-3, "b": 3e-4, "c": 1e-4, "d": 1e-5, "e": 1e-6}
SLOW = dict.fromkeys(NOISE, 2.0)
QUICK = dict.fromkeys(NOISE, 1.0)


@dataclass
class Bench:
    """A Lab whose candidates have the noise that predictions say, times `off` of the layer."""

    off: dict[str, float] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=lambda: QUICK)
    profile: Any = None
    fail: bool = False
    power: float = 1.0
    lag: float = 1.0
    candidates: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: float | None = None
    """What float loses against ground truth; 8 bits lose ten times their noise more."""

    def progress(self, message):
        pass

    def behind(self, slow, fast):
        assert fast.name == "best"
        return self.lag

    def attempt(self, candidate):
        kept = candidate.generator
        noise = sum(v * self.off.get(n, 1.0) for n, v in NOISE.items() if n not in kept)
        if self.fail and self.candidates:
            candidate.error = "it crashed"
        else:
            candidate.quality = {"psnr": {"mean": 10 * math.log10(1 / noise)}}
            if self.before is not None:
                candidate.quality["psnr_y_lost"] = {"mean": self.before + 10 * noise}
            candidate.worker = SimpleNamespace(layer_times=self.profile or (lambda: self.times))
        self.candidates.append(candidate)
        return candidate


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setattr(mixed, "quantize", lambda generator, found, keep_float: keep_float)
    monkeypatch.setattr(
        mixed.runtimes, "get", lambda name: SimpleNamespace(precisions=lambda quantized: ("int8",))
    )
    usual = {"w8a8": {n: LayerCode(n, n, Scheme(), GRID, noise=v) for n, v in NOISE.items()}}

    def run(
        lab, floor, *, slow=SLOW, careful=False, profile=None, codes=usual, cost=1.0, lost=None
    ):
        worker = SimpleNamespace(layer_times=profile or (lambda: slow))
        plain = SimpleNamespace(worker=worker, quality={})
        if lab.before is not None:
            plain.quality["psnr_y_lost"] = {"mean": lab.before}
        best = SimpleNamespace(name="best")
        asked = Asked(lab, None, codes, dict.fromkeys(NOISE, 10), floor, lost, best, cost)
        return attempt_mixed(asked, plain, "clock", careful=careful)

    return run


def kept(found):
    return ["".join(sorted(plan.keep_float)) for plan, _ in found.tried]


def test_all_layers_first_then_mixes_above_the_floor(search):
    found = search(Bench(), 33.0)
    assert kept(found) == ["", "a", "ab"]
    assert [c.name for _, c in found.tried] == [
        "clock int8", "clock int8, 1 layer float", "clock int8, 2 layers float",
    ]  # fmt: skip
    assert found.times == {"float": SLOW, "w8a8": QUICK}


def test_zero_points_come_back_where_they_are_worth_their_time(search):
    def code(name, share, zero):
        noise = NOISE[name] * share
        return LayerCode(name, name, Scheme(), GRID, input_zero_point=zero, noise=noise)

    signed = {n: code(n, 1.0, 128 if n in "ab" else 0) for n in NOISE}
    affine = {n: code(n, 0.001 if n == "a" else 1.0, 60 if n in "ab" else 0) for n in NOISE}
    codes = {"w8s8": signed, "w8a8": affine}
    found = search(Bench(), 33.0, codes=codes, cost=1.2)
    words = dict(found.tried[1][0].words)
    assert words == {"a": "w8a8", "b": "w8s8", "c": "w8s8", "d": "w8s8", "e": "w8s8"}
    assert found.tried[1][0].ms == pytest.approx(5.2)
    # Float takes twice the time: it is cheaper than a zero point that costs more.
    found = search(Bench(), 33.0, codes=codes, cost=2.5)
    assert dict(found.tried[1][0].words)["a"] == "float"


def test_where_all_layers_are_enough_nothing_else_is_tried(search):
    assert kept(search(Bench(), 20.0)) == [""]


def test_layers_that_8_bits_do_not_speed_up_stay_float(search):
    found = search(Bench(times={**QUICK, "d": 2.0, "e": 2.1}), 20.0)
    assert kept(found) == ["", "de"]


def test_where_8_bits_save_nothing_only_all_layers_are_tried(search):
    assert kept(search(Bench(times=SLOW), 20.0)) == [""]


def test_a_mix_that_saves_next_to_nothing_is_not_tried(search):
    times = {"a": 1.0, "b": 1.9, "c": 1.9, "d": 1.9, "e": 1.9}
    assert kept(search(Bench(times=times), 33.0)) == [""]
    assert kept(search(Bench(times={**times, "e": 1.0, "d": 1.5}), 33.0))[1] == "a"


def test_predictions_that_were_too_high_are_lowered(search):
    assert kept(search(Bench(), 33.0))[1] == "a"
    assert kept(search(Bench(dict.fromkeys(NOISE, 2.0)), 33.0))[1] == "ab"  # by 3 dB


def test_what_float_loses_against_the_truth_is_not_put_on_8_bits(search):
    """All layers have a noise of 1.4e-3: 0.014 dB lost of their own."""
    alone = search(Bench(before=0.0), 20.0, lost=0.01)
    beside = search(Bench(before=0.008), 20.0, lost=0.01)
    seen = [[c.quality["psnr_y_lost"]["mean"] for _, c in found.tried] for found in (alone, beside)]
    assert seen[0][1] <= 0.01
    assert seen[1][1] <= 0.01  # at once: only a fifth of it is left for 8 bits
    assert [kept(found)[1] for found in (alone, beside)] == ["a", "ab"]


def test_a_plan_that_falls_short_is_followed_by_one_aimed_higher(search):
    """All layers together are as noisy as predicted; what `a` has less, `b` has more."""
    lab = Bench({"a": 0.1, "b": 4.0})
    found = search(lab, 33.0)
    seen = [c.quality["psnr"]["mean"] for c in lab.candidates]
    assert seen[0] == pytest.approx(found.tried[0][0].predicted_db)
    assert kept(found) == ["", "a", "ab"]
    assert seen[1] < 33 < seen[2]


def test_two_plans_of_as_many_layers_have_different_names():
    assert mixed._free_name("x", [SimpleNamespace(name="x")]) == "x (choice 2)"


def test_few_are_tried_however_far_off_predictions_are(search):
    off = {"a": 1.0, "b": 10.0, "c": 100.0, "d": 1000.0, "e": 10000.0}
    assert len(search(Bench(off), 34.0).tried) <= 5


def test_elsewhere_one_careful_mix_is_tried(search):
    found = search(Bench({"b": 4.0}), 34.0, careful=True)
    assert len(found.tried) == 2
    assert found.tried[1][0].predicted_db >= 39


def test_where_float_is_far_behind_8_bits_are_not_tried_and_that_is_said(search):
    lab = Bench(lag=2.2)
    assert kept(search(lab, 33.0)) == []
    assert lab.candidates == []
    assert lab.notes == [
        "8 bits were not tried in clock, where float takes more than 2 times as long as best."
    ]


def test_a_candidate_that_fails_ends_the_tries_at_its_margin(search):
    found = search(Bench(fail=True), 33.0)
    assert kept(found) == ["", "a", "ab"]
    assert [bool(c.error) for _, c in found.tried] == [False, True, True]


def test_where_the_runtime_does_not_tell_work_stands_for_time(search):
    found = search(Bench(times={}), 33.0, slow={})
    assert found.times == {}
    assert kept(found) == ["", "a", "ab"]


def test_a_slow_spell_does_not_count_against_8_bits(search):
    """The machine is half as fast from the middle of the second round on."""
    speeds = iter([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])

    def timed(times):
        def profile():
            speed = next(speeds)
            return {n: ms * speed for n, ms in times.items()}

        return profile

    lab = Bench(profile=timed(QUICK))
    found = search(lab, 33.0, profile=timed(SLOW))
    assert found.times == {"float": SLOW, "w8a8": QUICK}
    assert kept(found)[1] == "a"


def test_a_profile_that_fails_is_none(search):
    def fail():
        raise LeanganError("no profile here")

    found = search(Bench(), 33.0, profile=fail)
    assert found.times == {}
    assert kept(found) == ["", "a", "ab"]


def test_the_middle_of_several_rounds_counts(search, monkeypatch):
    calls = iter([{**QUICK, "e": 1.5}, {**QUICK, "a": 9.0, "e": 1.2}, {**QUICK, "e": 1.2}])
    lab = Bench()
    attempt = Bench.attempt

    def disturbed(self, candidate):
        made = attempt(self, candidate)
        made.worker = SimpleNamespace(layer_times=lambda: next(calls))
        return made

    monkeypatch.setattr(Bench, "attempt", disturbed)
    assert search(lab, 20.0).times["w8a8"] == {**QUICK, "e": 1.2}
