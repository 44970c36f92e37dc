"""Feature maps in pairs: found by tracing, compared without or with adapters."""

from __future__ import annotations

import pytest
import torch
from task_nets import Smooth, UNet, image_generator
from torch import Tensor, nn

from leangan.errors import UsageError
from leangan.training.features import FeatureMatch, alignment
from leangan.training.pairs import find_pairs
from leangan.training.student import Student


class Halves(nn.Module):
    """Another depth and width than `UNet`, with maps of the same sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.down = nn.Conv2d(3, 4, 4, 2, 1)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.up = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.down(x))
        y = y + self.b(torch.relu(self.a(y)))
        return torch.sigmoid(self.up(torch.relu(self.c(y))))


@pytest.fixture(scope="module")
def nets():
    return image_generator(UNet(), multiple=4), image_generator(Halves(), multiple=4)


@pytest.fixture(scope="module")
def inputs():
    return (torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0)),)


def test_pairs_lie_at_the_same_places(nets, inputs):
    teacher, student = (net.module() for net in nets)
    pairs = find_pairs(teacher, student, inputs)
    assert pairs
    for pair in pairs:
        shapes = [
            next(n for n in module.graph.nodes if n.name == name).meta["val"].shape[2:]
            for module, name in ((teacher, pair.teacher), (student, pair.student))
        ]
        assert [str(s) for s in shapes[0]] == [str(s) for s in shapes[1]] or pair.student_channels
    assert len({p.student for p in pairs}) == len(pairs)
    assert pairs[0].student_channels == 4


def test_alignment_knows_rotations_and_strangers():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(2, 6, 9, 7, generator=rng)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng))
    turned = torch.einsum("dc,nchw->ndhw", turn, a) * 3
    assert float(alignment(a, turned)) == pytest.approx(1, abs=1e-5)
    wide = torch.cat([a, torch.zeros_like(a)], 1)
    assert float(alignment(a, wide)) == pytest.approx(1, abs=1e-5)
    assert float(alignment(a, torch.randn(2, 5, 9, 7, generator=rng))) < 0.5


@pytest.mark.parametrize("kind", ["kernels", "adapters"])
def test_features_come_nearer_by_training(nets, inputs, kind):
    teacher, student = nets[0], Student(nets[1])
    plain = student(*inputs)[0].detach()
    match = FeatureMatch(teacher, student, inputs, kind=kind)
    made, *features = student(*inputs)
    assert torch.equal(made, plain)
    parameters = [p for m in (student, match) for p in m.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, 1e-2)
    seen = []
    for _ in range(30):
        _, *features = student(*inputs)
        loss = match(features, inputs)
        adam.zero_grad()
        loss.backward()
        adam.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.9 * seen[0]


def test_nothing_to_pair_is_said(nets, inputs):
    with pytest.raises(UsageError, match="same places"):
        FeatureMatch(image_generator(Smooth()), Student(nets[1]), inputs)
    with pytest.raises(UsageError, match="kernels or adapters"):
        FeatureMatch(nets[0], Student(nets[1]), inputs, kind="names")
