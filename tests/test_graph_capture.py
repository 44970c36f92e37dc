"""What is captured without the decompositions is what they would have made."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.graph.capture import capture


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 12, 3, padding=1)
        self.norm = nn.InstanceNorm2d(12, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, F.leaky_relu(self.first(x), 0.2)], 1)
        y = F.interpolate(self.norm(self.second(y)), scale_factor=2.0)
        return F.pixel_shuffle(y * 0.2, 2)


class _InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(F.relu_(self.norm(self.conv(x)))).flatten(1)


def test_what_needs_no_decomposition_is_as_if_decomposed() -> None:
    program = capture(_Block(), [torch.randn(2, 3, 6, 7)], [(0, 2, 3)])
    again = program.run_decompositions({})
    assert program.dialect == again.dialect
    assert program.graph_signature == again.graph_signature
    assert [n.target for n in program.graph.nodes] == [n.target for n in again.graph.nodes]


def test_in_place_and_training_operators_go() -> None:
    program = capture(_InPlace(), [torch.randn(2, 3, 6, 7)], [(0, 2, 3)])
    aten = torch.ops.aten
    gone = {aten.relu_.default, aten.batch_norm.default, aten.dropout.default}
    targets = {n.target for n in program.graph.nodes}
    assert aten.relu.default in targets
    assert not gone & targets
