import numpy as np
import pytest
import torch
from task_nets import image_generator
from torch import nn
from torch.nn import functional as F

from leangan.graph.sizes import fix_sizes
from leangan.runtimes.litert_ import LiteRT
from leangan.runtimes.litert_file import operators
from leangan.techniques.quantize_linear import quantize


@pytest.fixture(autouse=True)
def _need_it():
    if missing := LiteRT().missing():
        pytest.skip(missing)


def slopes(channels):
    made = nn.PReLU(channels)
    with torch.no_grad():
        made.weight.copy_(torch.linspace(0.1, 0.5, channels))
    return made


class Halved(nn.Module):
    """Works at half of the resolution, its last maps the sum of two convolutions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(12, 12, 3, padding=1)
        self.last, self.side = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 1)

    def forward(self, x):
        y = torch.relu(self.first(F.pixel_unshuffle(x, 2)))
        return x + F.pixel_shuffle(self.last(y) + self.side(y), 2)


class Twice(nn.Module):
    """Its maps are wanted shuffled, and as they are."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        return F.pixel_shuffle(y, 2) * y.mean((1, 2, 3), keepdim=True)


class Grouped(nn.Module):
    """Each half of its maps reads one half of those before."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, padding=1, groups=2)

    def forward(self, x):
        return F.pixel_shuffle(self.last(self.first(x)), 2)


def tail(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers)


CASES = {
    "one slope": (
        tail(nn.LeakyReLU(0.1), nn.PixelShuffle(2), nn.PReLU(), nn.Conv2d(8, 3, 3, padding=1)),
        2,
        {"LEAKY_RELU": 2, "DEPTH_TO_SPACE": 1},
    ),
    "a slope for each channel": (
        tail(slopes(32), nn.PixelShuffle(2), slopes(8), nn.Conv2d(8, 3, 1)),
        2,
        {"PRELU": 2, "DEPTH_TO_SPACE": 1},
    ),
    "the last operator": (
        nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), slopes(48), nn.PixelShuffle(4)),
        4,
        {"PRELU": 1, "DEPTH_TO_SPACE": 1},
    ),
    "unshuffled first": (Halved(), 1, {"SPACE_TO_DEPTH": 1, "DEPTH_TO_SPACE": 1}),
}


def kinds(artifact):
    return [o.kind for o in operators(artifact.path.read_bytes())]


def outputs(artifact, generator):
    inputs = generator.example(seed=1)
    (out,) = LiteRT().open(artifact, 1).run([x.numpy() for x in inputs])
    with torch.no_grad():
        return out, generator.module()(*inputs).numpy()


@pytest.mark.parametrize("case", CASES)
def test_steps_become_one_operator(case, tmp_path):
    net, factor, expected = CASES[case]
    generator = fix_sizes(image_generator(net, size=16, factor=factor, multiple=2))
    artifact = LiteRT().build(generator, tmp_path, "fp32")
    found = kinds(artifact)
    assert {kind: found.count(kind) for kind in expected} == expected
    assert not {"RESHAPE", "RELU"} & set(found) - ({"RELU"} if case.startswith("un") else set())
    out, wanted = outputs(artifact, generator)
    np.testing.assert_allclose(out, wanted, atol=1e-5)


@pytest.mark.parametrize("net", [Twice, Grouped])
def test_maps_that_cannot_come_in_another_order_keep_theirs(net, tmp_path):
    torch.manual_seed(0)
    generator = fix_sizes(image_generator(net(), size=16, factor=2))
    artifact = LiteRT().build(generator, tmp_path, "fp32")
    assert "DEPTH_TO_SPACE" not in kinds(artifact)
    out, wanted = outputs(artifact, generator)
    np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_scales_follow_their_channels(tmp_path):
    net = CASES["one slope"][0]
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-2, 0, 32).reshape(-1, 1, 1, 1))
    generator = image_generator(net, size=16, factor=2)
    made = fix_sizes(quantize(generator, [generator.example(seed=s) for s in range(4)]))
    artifact = LiteRT().build(made, tmp_path, "int8")
    assert "DEPTH_TO_SPACE" in kinds(artifact)
    out, wanted = outputs(artifact, made)
    assert np.abs(out - wanted).max() < 0.03 * np.ptp(wanted)
