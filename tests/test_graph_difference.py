"""How far tensors lie apart, as a share of what was expected's range."""

import math

import pytest
import torch

from leangan.graph.difference import share_of_range


@pytest.mark.parametrize(
    ("expected", "found", "share"),
    [
        ([-1.0, 1.0], [-1.0, 1.5], 0.25),
        ([2.0, 2.0], [2.0, 2.25], 0.25),  # of one value only
        ([0.0, 4.0], [0.0, math.nan], math.inf),
        ([0.0, math.inf], [0.0, math.inf], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_difference_is_a_share_of_the_range(expected, found, share):
    assert share_of_range(torch.tensor(expected), torch.tensor(found)) == share
