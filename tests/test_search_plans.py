"""Which layers stay in float: the noisy and cheap, never too many, and always one bold plan."""

from __future__ import annotations

import math

import pytest
import torch

from leangan.search.plans import Plan, plans, predicted
from leangan.techniques.grid import Grid
from leangan.techniques.layer_code import LayerCode
from leangan.techniques.scheme import Scheme


def layer(name, noise, source=None):
    grid = Grid(0, torch.ones(1), torch.zeros(1), -127, 127)
    return LayerCode(name, source or name, Scheme(), grid, noise=noise)


def calibration(**noise):
    return {name: layer(name, value) for name, value in noise.items()}


def test_noise_adds_up():
    found = calibration(a=0.001, b=0.002, c=0.007)
    assert predicted(found, (), 1.0) == pytest.approx(20)
    assert predicted(found, ("c",), 1.0) == pytest.approx(10 * math.log10(1 / 0.003))
    assert predicted(found, (), 4.0) == pytest.approx(20 + 10 * math.log10(4))


def test_without_noise_the_output_is_the_same():
    assert predicted(calibration(a=0.001), ("a",), 1.0) == math.inf


def test_all_layers_in_8_bits_come_first():
    found = plans(calibration(a=0.01, b=0.0001), {"a": 1, "b": 9}, 1.0, [30])
    assert found[0].keep_float == ()
    assert found[0].predicted_db == pytest.approx(10 * math.log10(1 / 0.0101))


def test_what_is_noisy_and_cheap_goes_back_to_float_first():
    noisy = calibration(cheap=0.004, costly=0.005, quiet=0.00001)
    _, careful = plans(noisy, {"cheap": 10, "costly": 100, "quiet": 100}, 1.0, [22])
    assert careful.keep_float == ("cheap",)
    assert careful.predicted_db >= 22


def test_a_plan_reaches_its_target_with_as_few_layers_as_it_takes():
    noisy = calibration(**{f"l{i}": 0.001 * 2**-i for i in range(8)})
    macs = dict.fromkeys(noisy, 1)
    found = plans(noisy, macs, 1.0, [30, 33], most_float=0.9)
    for plan, target in zip(found[1:], (30, 33), strict=True):
        assert plan.predicted_db >= target
        *fewer, _ = plan.keep_float
        assert predicted(noisy, fewer, 1.0) < target


def test_never_more_than_the_allowed_share_stays_float():
    noisy = calibration(a=0.1, b=0.1, c=0.1, d=0.1)
    macs = {"a": 40, "b": 30, "c": 20, "d": 10}
    for share in (0.0, 0.1, 0.35, 0.5):
        for plan in plans(noisy, macs, 1.0, [20, 90], most_float=share):
            assert sum(macs[n] for n in plan.keep_float) <= share * 100


def test_a_layer_too_costly_for_float_does_not_keep_smaller_ones_from_it():
    noisy = calibration(huge=0.9, small=0.0001)
    _, careful = plans(noisy, {"huge": 90, "small": 10}, 1.0, [60])
    assert careful.keep_float == ("small",)


def test_plans_differ_and_their_names_too():
    noisy = calibration(a=0.01, b=0.001, c=0.0001, d=0.0001)
    found = plans(noisy, dict.fromkeys("abcd", 1), 1.0, [10, 12, 25, 25, 35, 36, 80])
    assert len({p.keep_float for p in found}) == len({p.name for p in found}) == len(found) > 1


def test_targets_in_any_order_give_the_same_plans():
    noisy = calibration(a=0.01, b=0.001, c=0.0001, d=0.0001)
    macs = dict.fromkeys("abcd", 1)
    assert plans(noisy, macs, 1.0, [35, 25]) == plans(noisy, macs, 1.0, [25, 35])


def test_kept_layers_are_listed_in_the_order_of_computation():
    noisy = calibration(first=0.01, second=0.02, third=0.00001, fourth=0.00001)
    _, careful = plans(noisy, dict.fromkeys(noisy, 1), 1.0, [40])
    assert careful.keep_float == ("first", "second")


def test_no_plan_keeps_every_layer_in_float():
    noisy = calibration(a=0.1, b=0.1)
    found = plans(noisy, {"a": 1, "b": 1}, 1.0, [99], most_float=1.0)
    assert [p.keep_float for p in found] == [()]


def test_a_plan_is_named_for_people():
    assert Plan((), 40.0).name == ""
    assert Plan(("a",), 40.0).name == ", 1 layer float"
    assert Plan(("a", "b"), 40.0).name == ", 2 layers float"


def test_layers_that_read_the_same_values_go_together():
    found = {
        "a": layer("a", 0.004, "x"),
        "b": layer("b", 0.00001, "x"),
        "c": layer("c", 0.00001, "y"),
    }
    careful = plans(found, dict.fromkeys("abc", 1), 1.0, [30], most_float=0.7)[-1]
    assert careful.keep_float == ("a", "b")
