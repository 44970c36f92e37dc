"""How many channels of which group go: the budget holds, and the least damage is done."""

from __future__ import annotations

import re

import pytest
import torch
from task_nets import UNet, image_generator
from torch import nn

from leangan.errors import UsageError
from leangan.generator import Step
from leangan.graph.channels import couple, slice_module
from leangan.graph.cost import macs
from leangan.graph.rewrite import recapture
from leangan.techniques.allocate import Budget, allocate, ladder
from leangan.techniques.width_cost import WidthCost


class Three(nn.Module):
    """Three groups: 32, 24 and 12 channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 24, 3, padding=1)
        self.c, self.d = nn.Conv2d(24, 12, 3, padding=1), nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())


@pytest.fixture(scope="module")
def three():
    generator = image_generator(Three())
    return generator, couple(generator)


def flat(coupling, **factors):
    """Equal scores within a group, ascending by a hair."""
    return {
        g.name: (1 + 1e-6 * torch.arange(g.width).double()) * factors.get(g.name, 1.0)
        for g in coupling.groups
    }


def widths(keep):
    return {name: len(kept) for name, kept in keep.items()}


@pytest.mark.parametrize(
    ("width", "multiple", "rungs"),
    [
        (32, 8, [32, 24, 16, 8]),
        (30, 8, [30, 24, 16, 8]),
        (16, 8, [16, 8]),
        (12, 8, [12, 8, 4]),
        (5, 8, [5, 4, 2]),
        (3, 8, [3, 2, 1]),
        (2, 8, [2, 1]),
        (5, 1, [5, 4, 3, 2, 1]),
    ],
)
def test_widths_are_multiples_and_never_zero(width, multiple, rungs):
    assert ladder(width, multiple) == rungs


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("of", ["macs", "params", "channels"])
@pytest.mark.parametrize("left", [0.9, 0.6, 0.35])
def test_the_budget_holds_in_the_network_that_is_cut(three, scope, of, left):
    generator, coupling = three
    keep = allocate(generator, coupling, flat(coupling), Budget(left, of, scope))
    sliced = slice_module(generator, coupling, keep)
    pruned = recapture(generator, sliced.module, Step("test"))
    share = {
        "macs": macs(pruned) / macs(generator),
        "params": pruned.params / generator.params,
        "channels": sum(widths(keep).values()) / sum(g.width for g in coupling.groups),
    }[of]
    assert share <= left
    cost = WidthCost(generator, coupling, of)
    assert cost.total(widths(keep)) / cost.whole == pytest.approx(share)
    assert all(
        w in ladder(g.width, 8) for g, w in zip(coupling.groups, widths(keep).values(), strict=True)
    )


def test_no_more_goes_than_must(three):
    generator, coupling = three
    budget = Budget(0.6, "macs")
    found = widths(allocate(generator, coupling, flat(coupling), budget))
    cost = WidthCost(generator, coupling, "macs")
    for group in coupling.groups:
        rungs = ladder(group.width, 8)
        place = rungs.index(found[group.name])
        if place:
            wider = {**found, group.name: rungs[place - 1]}
            assert cost.total(wider) > 0.6 * cost.whole


def test_channels_of_the_highest_scores_are_kept(three):
    generator, coupling = three
    scores = {
        g.name: torch.rand(g.width, generator=torch.Generator().manual_seed(i)).double()
        for i, g in enumerate(coupling.groups)
    }
    for scope in ("global", "uniform"):
        keep = allocate(generator, coupling, scores, Budget(0.5, "macs", scope))
        for name, kept in keep.items():
            assert kept == sorted(scores[name].topk(len(kept)).indices.tolist())


def test_global_takes_from_the_group_that_matters_least(three):
    generator, coupling = three
    a, b, _ = coupling.groups
    spare_a = widths(allocate(generator, coupling, flat(coupling, b=1e-6), Budget(0.6)))
    spare_b = widths(allocate(generator, coupling, flat(coupling, a=1e-6), Budget(0.6)))
    assert spare_a[a.name] == a.width
    assert spare_a[b.name] < b.width
    assert spare_b[a.name] < a.width
    assert spare_b[b.name] == b.width


def test_uniform_takes_the_same_share_whatever_the_scores_of_groups(three):
    generator, coupling = three
    plain = widths(allocate(generator, coupling, flat(coupling), Budget(0.5, "macs", "uniform")))
    skewed = flat(coupling, a=1e6, b=1e-6)
    assert widths(allocate(generator, coupling, skewed, Budget(0.5, "macs", "uniform"))) == plain
    for group in coupling.groups:
        # To the nearest of its widths, which are multiples of 8.
        assert abs(plain[group.name] - 2**-0.5 * group.width) < 8


def test_what_cannot_be_reached_is_refused_with_what_can(three):
    generator, coupling = three
    with pytest.raises(UsageError, match=r"MACs.*narrowest") as refused:
        allocate(generator, coupling, flat(coupling), Budget(0.01))
    reachable = float(re.search(r"([0-9.]+) are left", str(refused.value))[1])
    keep = allocate(generator, coupling, flat(coupling), Budget(reachable))
    assert widths(keep) == {g.name: ladder(g.width, 8)[-1] for g in coupling.groups}


@pytest.mark.parametrize("left", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_shares_that_make_no_sense_are_refused(left):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Budget(left)


def test_other_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="scope"):
        Budget(0.5, scope="local")
    with pytest.raises(UsageError, match="multiple"):
        Budget(0.5, multiple=0)


def test_concatenated_groups_share_an_axis():
    generator = image_generator(UNet(), multiple=4)
    coupling = couple(generator)
    keep = allocate(generator, coupling, flat(coupling), Budget(0.6, "macs", multiple=2))
    pruned = recapture(generator, slice_module(generator, coupling, keep).module, Step("test"))
    cost = WidthCost(generator, coupling, "macs")
    assert cost.total(widths(keep)) == pytest.approx(macs(pruned), rel=1e-6)
    assert macs(pruned) <= 0.6 * macs(generator)
