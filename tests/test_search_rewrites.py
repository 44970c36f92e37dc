"""Of rewrites that exclude each other the faster one is kept, whatever their order."""

import pytest
import torch
from torch import nn

from leangan.errors import LeanganError
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.doors import DOOR_REWRITES
from leangan.search.candidate import Candidate
from leangan.search.rewrites import base_for_8_bits, rewrites_that_pay

PHASES = ("transposed-as-phases",)
SHUFFLE = ("transposed-as-shuffle", "shuffle-by-phase")
"""What makes a shuffle is tried with its channels by phase."""


class Lab:
    """Tells what it was told: milliseconds by the rewrites in a candidate's history."""

    def __init__(self, times):
        self.times, self.tried, self.candidates, self.notes = times, [], [], []

    def progress(self, message, done=None, total=None):
        pass

    def attempt(self, candidate):
        self.candidates.append(candidate)
        return candidate

    def pays(self, new, old):
        return self.times[self.rewrites(old)] / self.times[self.rewrites(new)] >= 1.02

    def opened(self, candidate):
        self.tried.append(self.rewrites(candidate))
        return candidate

    def rewrites(self, candidate):
        return tuple(step.name for step in candidate.generator.history)


def plain(*layers):
    program = capture(nn.Sequential(*layers).eval(), [torch.randn(2, 3, 9, 11)], [[0, 2, 3]])
    port = Port("x", None, "NCHW", (None, 3, None, None), (2, 3, 9, 11))
    generator = Generator(program, Signature((port,), ()))
    return Candidate("plain", "openvino", "fp32", generator, plain=True)


@pytest.mark.parametrize(
    ("phases", "shuffle", "kept"),
    [
        (5.0, 6.0, PHASES),
        (6.0, 5.0, SHUFFLE),
        (11.0, 6.0, SHUFFLE),
        (5.0, 4.95, PHASES),  # less than 2% is noise
        (11.0, 10.0, ()),
    ],
)
def test_the_faster_alternative_is_kept(phases, shuffle, kept):
    lab = Lab({(): 10.0, PHASES: phases, SHUFFLE: shuffle})
    start = plain(nn.ConvTranspose2d(3, 2, 4, 2, 1))
    generator = rewrites_that_pay(lab, start).generator
    assert tuple(step.name for step in generator.history) == kept
    assert lab.tried == [PHASES, SHUFFLE]


@pytest.mark.parametrize(
    ("phases", "shuffle", "named"),
    [
        (11.0, 12.0, "phases, transposed-as-shuffle"),
        (11.0, 6.0, "phases"),
        (5.0, 6.0, "shuffle"),
        (6.0, 5.0, None),
    ],
)
def test_rewrites_that_are_never_faster_are_named(phases, shuffle, named):
    """One that another overtakes was faster, and is among the candidates."""
    lab = Lab({(): 10.0, PHASES: phases, SHUFFLE: shuffle})
    rewrites_that_pay(lab, plain(nn.ConvTranspose2d(3, 2, 4, 2, 1)))
    said = "Exact rewrites with which openvino was not faster here: transposed-as-"
    assert lab.notes == ([f"{said}{named}."] if named else [])


def test_what_is_not_faster_is_not_judged():
    lab = Lab({(): 10.0, PHASES: 11.0, SHUFFLE: 5.0})
    rewrites_that_pay(lab, plain(nn.ConvTranspose2d(3, 2, 4, 2, 1)))
    assert [lab.rewrites(c) for c in lab.candidates] == [SHUFFLE]


def test_a_rewrite_that_cannot_be_opened_is_shown_as_failed():
    lab = Lab({(): 10.0})
    lab.pays = lambda new, old: False
    lab.opened = lambda candidate: candidate.fail(LeanganError("no")) or candidate
    start = plain(nn.ConvTranspose2d(3, 2, 4, 2, 1))
    assert rewrites_that_pay(lab, start) is start
    assert {c.error for c in lab.candidates} == {"no"}


def test_what_the_first_alternative_leaves_goes_to_the_second():
    both = (*PHASES, *SHUFFLE)
    lab = Lab({(): 10.0, PHASES: 8.0, both: 6.0, SHUFFLE: 7.0})
    # The output of kernel 3, stride 2 is no multiple of 2.
    start = plain(nn.ConvTranspose2d(3, 2, 4, 2, 1), nn.ConvTranspose2d(2, 2, 3, 2))
    generator = rewrites_that_pay(lab, start).generator
    assert tuple(step.name for step in generator.history) == both
    assert lab.tried == [PHASES, both, SHUFFLE]


@pytest.mark.parametrize(("slow", "kept"), [(12.0, ()), (9.0, PHASES)])
def test_a_rewrite_that_costs_time_in_8_bits_is_taken_back_there(slow, kept):
    done = ("quantize_linear",)
    lab = Lab({done: 10.0, (*PHASES, *done): slow})
    start = plain(nn.ConvTranspose2d(3, 2, 4, 2, 1))
    best = Candidate("best", "openvino", "fp32", DOOR_REWRITES[PHASES[0]](start.generator))
    base = base_for_8_bits(lab, start.generator, best)
    assert lab.rewrites(base) == kept
    assert (base is best) == bool(kept)


def test_sums_of_joined_maps_stay_in_float():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 2, 1)

        def forward(self, x):
            return self.last(torch.cat([x, self.first(x)], 1))

    lab = Lab({})
    start = plain(Joined())
    best = Candidate("best", "openvino", "fp32", DOOR_REWRITES["joins-as-sums"](start.generator))
    assert lab.rewrites(base_for_8_bits(lab, start.generator, best)) == ()
