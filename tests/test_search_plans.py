"""Which precision each layer gets: by its time and its noise, never for nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from leangan.search.plans import Plan, cleanest, fastest, groups, uniform
from leangan.techniques.grid import Grid
from leangan.techniques.layer_code import LayerCode
from leangan.techniques.scheme import Scheme

GRID = Grid(0, torch.ones(1), torch.zeros(1, dtype=torch.int64), -127, 127)


def calibration(sources=None, word="w8a8", **noise):
    return {
        name: LayerCode(name, (sources or {}).get(name, name), Scheme().at(word), GRID, noise=value)
        for name, value in noise.items()
    }


def choices(found, float_ms, ms, macs=None):
    return groups({"w8a8": found}, {"float": float_ms, "w8a8": ms}, macs or {})


def test_noise_and_time_add_up():
    found = calibration(a=0.001, b=0.002, c=0.007)
    plan = uniform(found, {"a": 1.0, "b": 2.0, "c": 4.0}, "w8a8", 1.0)
    assert plan.predicted_db == pytest.approx(20)
    assert plan.ms == 7
    assert plan.keep_float == ()
    assert uniform(found, {}, "w8a8", 4.0).predicted_db == pytest.approx(20 + 10 * math.log10(4))


def test_what_costs_quality_and_saves_little_time_stays_float():
    found = calibration(a=0.004, b=0.004, c=0.00001)
    offered = choices(found, {"a": 1.0, "b": 9.0, "c": 5.0}, {"a": 0.5, "b": 4.0, "c": 2.0})
    plan = fastest(offered, 1.0, 22)
    assert plan.words == {"a": "float", "b": "w8a8", "c": "w8a8"}
    assert plan.ms == pytest.approx(7)
    assert plan.predicted_db == pytest.approx(10 * math.log10(1 / 0.00401))


def test_what_is_no_faster_in_8_bits_stays_float_however_quiet():
    found = calibration(slower=1e-9, same=1e-9, quicker=1e-9)
    ms = {"slower": 3.0, "same": 1.99, "quicker": 1.0}
    plan = fastest(choices(found, dict.fromkeys(found, 2.0), ms), 1.0, 10)
    assert plan.keep_float == ("slower", "same")
    assert plan.ms == pytest.approx(5)


def test_the_fastest_plan_is_found_and_reaches_its_quality():
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = "abcdefg"
        found = calibration(**{n: float(10 ** rng.uniform(-5, -2)) for n in names})
        slow = {n: float(rng.uniform(1, 5)) for n in names}
        quick = {n: slow[n] * float(rng.uniform(0.3, 0.9)) for n in names}
        plan = fastest(choices(found, slow, quick), 1.0, 27)
        assert plan.predicted_db >= 27 - 1e-9
        best = min(
            sum(quick[n] if n in eight else slow[n] for n in names)
            for k in range(8)
            for eight in itertools.combinations(names, k)
            if sum(found[n].noise for n in eight) <= 10**-2.7
        )
        assert plan.ms == pytest.approx(best)


def test_the_reverse_is_the_best_quality_within_a_time():
    found = calibration(a=0.004, b=0.001, c=0.0001)
    offered = choices(found, {"a": 4.0, "b": 4.0, "c": 4.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    plan = cleanest(offered, 1.0, 6.0)
    assert plan.words == {"a": "float", "b": "w8a8", "c": "w8a8"}
    assert cleanest(offered, 1.0, 12.0).predicted_db == math.inf
    assert cleanest(offered, 1.0, 2.9) is None


def test_a_quality_beyond_8_bits_leaves_everything_float():
    found = calibration(a=0.1, b=0.1)
    plan = fastest(choices(found, {"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 1.0}), 1.0, 200)
    assert plan.keep_float == ("a", "b")
    assert plan.predicted_db == math.inf


def test_layers_that_read_the_same_values_go_together():
    found = calibration({"a": "x", "b": "x", "c": "y"}, a=0.004, c=0.00001, b=0.00001)
    plan = fastest(choices(found, dict.fromkeys("abc", 2.0), dict.fromkeys("abc", 1.0)), 1.0, 30)
    assert plan.words == {"a": "float", "b": "float", "c": "w8a8"}


def test_several_precisions_are_weighed_against_each_other():
    noisy, quiet = calibration(a=0.01, b=0.01), calibration(word="w8a16", a=0.0001, b=0.0001)
    times = {
        "float": {"a": 4.0, "b": 4.0},
        "w8a8": {"a": 1.0, "b": 1.0},
        "w8a16": {"a": 2.0, "b": 3.99},
    }
    offered = groups({"w8a8": noisy, "w8a16": quiet}, times, {})
    assert fastest(offered, 1.0, 15).words == {"a": "w8a8", "b": "w8a8"}
    assert fastest(offered, 1.0, 19).words == {"a": "w8a16", "b": "w8a8"}
    assert fastest(offered, 1.0, 30).words == {"a": "w8a16", "b": "float"}


def test_where_no_runtime_tells_work_stands_for_time():
    found = calibration(small=0.004, large=0.004)
    plan = fastest(groups({"w8a8": found}, {}, {"small": 10, "large": 100}), 1.0, 23)
    assert plan.keep_float == ("small",)


def test_a_layer_that_was_not_told_is_as_fast_as_the_others():
    found = calibration(known=1e-9, unknown=1e-9)
    offered = choices(found, {"known": 2.0}, {"known": 1.0}, {"known": 10, "unknown": 30})
    assert [o.ms for o in offered[1].options] == pytest.approx([6.0, 3.0])


def test_a_plan_is_named_for_people():
    assert Plan({"a": "w8a8"}, 40.0, 1.0).name == ""
    assert Plan({"a": "float", "b": "w8a8"}, 40.0, 1.0).name == ", 1 layer float"
    assert Plan({"a": "float", "b": "float"}, 40.0, 1.0).name == ", 2 layers float"
    words = {"a": "w8s8", "b": "w8a8", "c": "w8s8", "d": "float"}
    assert Plan(words, 40.0, 1.0).name == ", 1 layer float, 1 layer w8a8"
