"""The multiple-choice knapsack: as good as trying everything, within the limit, and quick."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from leangan.search.solve import cheapest


def totals(groups, picks):
    chosen = [options[pick] for options, pick in zip(groups, picks, strict=True)]
    return sum(c for c, _ in chosen), sum(t for _, t in chosen)


def every_choice(groups, limit):
    """The least cost within the limit, by trying all; None when nothing fits."""
    choices = (totals(groups, p) for p in itertools.product(*(range(len(g)) for g in groups)))
    return min((cost for cost, take in choices if take <= limit), default=None)


def random_groups(rng, count, whole):
    draw = (lambda n: rng.integers(0, 6, n).astype(float)) if whole else rng.random
    return [
        list(zip(draw(k).tolist(), draw(k).tolist(), strict=True))
        for k in rng.integers(1, 5, count)
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_as_good_as_trying_everything(whole):
    rng = np.random.default_rng(0)
    infeasible = 0
    for _ in range(200):
        groups = random_groups(rng, int(rng.integers(1, 6)), whole)
        most = totals(groups, [int(np.argmax([t for _, t in g])) for g in groups])[1]
        limit = float(rng.uniform(0, most)) if not whole else float(rng.integers(0, int(most) + 1))
        best, picks = every_choice(groups, limit), cheapest(groups, limit)
        if best is None:
            infeasible += 1
            assert picks is None
        else:
            cost, take = totals(groups, picks)
            assert take <= limit * (1 + 1e-9)
            assert cost == pytest.approx(best)
    assert 10 < infeasible < 190, "both kinds must be seen"


def test_many_groups_are_near_the_best_and_within_the_limit():
    """The lower bound is Lagrange's: what the relaxed problem costs at the best multiplier."""
    rng = np.random.default_rng(1)
    groups = []
    for _ in range(300):
        slow, noise = float(rng.lognormal()), float(10 ** rng.uniform(-7, -3))
        groups.append([(slow, 0.0), (slow * float(rng.uniform(0.4, 1.2)), noise)])
    most = sum(options[1][1] for options in groups)
    for share in (0.001, 0.03, 0.4):
        limit = share * most
        cost, take = totals(groups, cheapest(groups, limit))
        bound = max(
            sum(min(c + multiplier * t for c, t in options) for options in groups)
            - multiplier * limit
            for multiplier in np.geomspace(1e-1, 1e8, 400)
        )
        assert take <= limit * (1 + 1e-9)
        assert bound <= cost <= 1.005 * bound


def test_without_a_limit_each_group_is_at_its_cheapest():
    groups = [[(3, 0), (1, 9)], [(2, 5), (4, 0)]]
    assert cheapest(groups, math.inf) == [1, 0]


def test_of_equal_costs_the_one_that_takes_less():
    assert cheapest([[(1, 7), (1, 2), (1, 5)]], 10) == [1]


def test_too_little_for_anything():
    assert cheapest([[(1, 2)], [(1, 3)]], 4.9) is None
    assert cheapest([[(1, 2)], [(1, 3)]], 5) == [0, 0]


def test_no_groups_no_choices():
    assert cheapest([], 0.0) == []


def test_nothing_may_be_taken():
    assert cheapest([[(5, 0), (1, 1e-9)], [(7, 0), (2, 1)]], 0.0) == [0, 0]
