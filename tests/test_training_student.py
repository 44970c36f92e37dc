"""What was done to weights stays done while they are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.generator import Step
from leangan.techniques.codebook.books import Book, find_books
from leangan.training.forms import Levels, Masked
from leangan.training.settings import TrainSettings
from leangan.training.sparse import ChannelShrink, GradualPruning, idle_shares, l1_penalty
from leangan.training.student import Student


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Tanh(),
        nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip
    return lg.load(layers.eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")


@pytest.fixture(scope="module")
def data(net):
    return [net.example({"H": 16, "W": 16}, seed=seed) for seed in range(4)]


def learn(student, original, data, steps=30, lr=3e-3):
    adam = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        inputs = data[step % len(data)]
        loss = (student(*inputs)[0] - original(*inputs)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return student.finished(Step("finetune", {}))


def error(made, net):
    inputs = net.example({"N": 2, "H": 24, "W": 24}, seed=99)
    return float((made(*inputs) - net(*inputs)).square().mean())


@pytest.mark.parametrize("kind", ["free", "pruned", "coded", "whole numbers", "few bits"])
def test_nothing_is_lost_on_the_way_there_and_back(net, data, kind):
    start = {
        "free": lambda: net,
        "pruned": lambda: lg.prune_weights(net, 0.4),
        "coded": lambda: lg.codebook(net, 3, data=data),
        "whole numbers": lambda: lg.quantize(net, data),
        "few bits": lambda: lg.quantize(net, data, scheme=_scheme()),
    }[kind]()
    back = Student(start).finished(Step("finetune", {}))
    assert back.history[-1].name == "finetune"
    inputs = net.example({"N": 2, "H": 24, "W": 20}, seed=5)
    torch.testing.assert_close(back(*inputs), start(*inputs), atol=2e-6, rtol=0)


def _scheme():
    from leangan.techniques.scheme import Scheme

    return Scheme(weight_bits=3, per="group", group=8, symmetric=False)


def test_zeros_stay_zero_and_the_rest_learns(net, data):
    start = lg.prune_weights(net, 0.6)
    student = Student(start)
    assert [type(form) for form in student.forms] == [Masked] * 3
    made = learn(student, net, data)
    assert error(made, net) < 0.7 * error(start, net)
    for name, weight in start.program.state_dict.items():
        if weight.dim() == 4:
            assert torch.equal(made.program.state_dict[name] == 0, weight == 0)


@pytest.mark.parametrize("bits", [2, 6])
def test_levels_learn_and_stay_as_few_and_the_file_as_small(net, data, bits, tmp_path):
    start = lg.codebook(net, bits, per="tensor", data=data)
    student = Student(start)
    assert [type(form) for form in student.forms] == [Levels] * 3
    made = learn(student, net, data, lr=3e-3 if bits == 2 else 2e-4)
    assert error(made, net) < error(start, net)
    after = made.program.state_dict
    for book in find_books(start, start.module()):
        assert len(after[book.path].unique()) <= len(book.levels)
    size = start.save(tmp_path / "few.pt2").stat().st_size
    assert made.save(tmp_path / "trained.pt2").stat().st_size < size + 900
    opened = lg.load(tmp_path / "trained.pt2").program.state_dict
    assert all(torch.equal(opened[name], after[name]) for name in after)


def test_gradients_are_summed_over_the_weights_that_share_a_level(net):
    few = lg.codebook(net, 2, per="tensor")
    book = find_books(few, few.module())[0]
    form = Levels(book)
    slope = torch.randn(book.indices.shape, generator=torch.Generator().manual_seed(1))
    (form() * slope).sum().backward()
    expected = torch.stack([slope[book.indices == i].sum() for i in range(len(book.levels))])
    torch.testing.assert_close(form.change.grad, expected * form.scale)


def test_a_weight_takes_the_level_of_its_group_that_it_has_come_nearest_to():
    levels = torch.tensor([-1.0, 0.0, 1.0, 5.0, 7.0])  # three of the first group, two of the other
    indices = torch.tensor([[2, 0, 1], [3, 4, 3]])
    form = Levels(Book("w", levels, indices, (1, 2, 3), (3, 2), False))
    assert torch.equal(form(), levels[indices])
    form().square().sum().backward()
    weights, slopes = levels[indices], form.drift.grad.view(2, 3)
    torch.testing.assert_close(slopes, 2 * weights * form.scale)  # as if they were not coded
    with torch.no_grad():
        form.drift += torch.tensor([-1.4, 0.4, 9.0, 1.2, -0.9, 0.8]) / form.scale
    # Nearest of its own group; a zero stays one.
    expected = torch.tensor([[0.0, -1.0, 0.0], [7.0, 7.0, 5.0]])
    assert torch.equal(form(), expected)
    with torch.no_grad():
        form.change += torch.tensor([0.0, 3.0, 0.0, 0.0, -1.5]) / form.scale
    assert torch.equal(form(), torch.tensor([[0.0, -1.0, 0.0], [5.5, 5.5, 5.5]]))


@pytest.mark.parametrize("bits", [8, 3])
def test_what_computes_in_whole_numbers_learns_through_its_rounding(net, data, bits):
    from leangan.techniques.scheme import Scheme

    start = lg.quantize(net, data, scheme=Scheme(weight_bits=bits, range="minmax"))
    student = Student(start)
    assert student.rounded == 6
    made = learn(student, net, data, steps=120, lr=1e-3 if bits == 3 else 1e-4)
    # 8 calibrated bits of a net this small are as good as they get.
    assert error(made, net) < (1.1 if bits == 8 else 1.0) * error(start, net)
    assert made.quantized
    # What the student computed last is what the integers compute.
    inputs = data[0]
    torch.testing.assert_close(made(*inputs), student(*inputs)[0].detach(), atol=1e-5, rtol=0)
    codes = [b for b in made.program.buffers() if b.dtype == torch.int8]
    assert len(codes) == 3
    assert max(int(c.abs().max()) for c in codes) <= 2 ** (bits - 1)


def test_pruning_on_the_way_reaches_its_share(net, data):
    student = Student(net, prunable=True)
    pruning = GradualPruning(0.5, until=0.5)
    shares = []
    for step in range(11):
        pruning.after_step(student, step / 10)
        shares.append(_zeros(student))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[5] == shares[-1] == pytest.approx(0.5, abs=1e-3)
    made = student.finished(Step("finetune", {}))
    weights = [w for w in made.program.state_dict.values() if w.dim() == 4]
    assert sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights) > 0.499


def _zeros(student):
    masks = [form.mask for form in student.forms]
    return 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)


def test_the_penalty_is_the_sum_of_absolute_weights(net):
    student = Student(net)
    weights = [w.detach() for w in net.program.state_dict.values() if w.dim() > 1]
    expected = sum(float(w.abs().sum()) for w in weights)
    assert float(l1_penalty(student)) == pytest.approx(expected, rel=1e-5)


def test_channels_that_nobody_needs_shrink_to_zero_and_the_others_do_not():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )  # fmt: skip
    unneeded = torch.arange(16) % 2 == 1
    layers[3].weight.data[:, unneeded] = 0
    net = lg.load(layers.eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")
    settings = TrainSettings(steps=60, lr=3e-3)
    student = Student(net)
    shrink = ChannelShrink(net, 20.0, settings)
    adam = torch.optim.Adam(student.parameters(), 3e-3)
    for step in range(60):
        inputs = net.example({"H": 16, "W": 16}, seed=step)
        loss = (student(*inputs)[0] - net(*inputs)).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        shrink.after_step(student, step / 60)
    made = student.finished(Step("finetune", {}))
    state = made.program.state_dict
    kernel, scale = (
        next(w for n, w in state.items() if n.endswith(e)) for e in ("0.weight", "1.weight")
    )
    assert torch.equal(kernel.abs().sum((1, 2, 3)) == 0, unneeded)
    assert torch.equal(scale == 0, unneeded)
    assert idle_shares(net)["channels"] == 0
    assert idle_shares(made)["channels"] == 0.5
    # What is left can be cut without a trace.
    data = [net.example({"H": 16, "W": 16}, seed=seed) for seed in range(4)]
    half = lg.prune_channels(made, 0.5, data=data, multiple=1)
    x = net.example({"H": 24, "W": 20}, seed=99)
    torch.testing.assert_close(half(*x), made(*x), atol=1e-4, rtol=0)


def test_a_channel_shrinks_by_the_rate_times_the_usual_size(net):
    shrink = ChannelShrink(net, 10.0, TrainSettings(steps=10, lr=1e-3, warmup=0.0))
    student = Student(net)
    before = student.graph.get_parameter("0.weight").detach().clone()
    shrink.after_step(student, 0.0)
    after = student.graph.get_parameter("0.weight").detach()
    bias = net.program.state_dict["0.bias"]
    sizes = (before.square().sum((1, 2, 3)) + bias.square()).sqrt()
    expected = before * (1 - 0.01 * sizes.mean() / sizes)[:, None, None, None]
    torch.testing.assert_close(after, expected)


def test_slopes_and_statistics_stay_when_channels_shrink():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.BatchNorm2d(8), nn.PReLU(8),
        nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip
    net = lg.load(layers.eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")
    student = Student(net)
    ChannelShrink(net, 10.0, TrainSettings(steps=9, lr=1e-2, warmup=0.0)).after_step(student, 0.0)
    for name, tensor in student.graph.state_dict().items():
        shrunk = not torch.equal(tensor, net.program.state_dict[name])
        assert shrunk == (name.split(".")[0] in "02" and tensor.dtype != torch.int64
                          and "running" not in name and bool(tensor.abs().sum())), name  # fmt: skip


def test_a_student_is_a_copy(net, data):
    before = copy.deepcopy(dict(net.program.state_dict))
    learn(Student(net), lg.prune_weights(net, 0.9), data, steps=2)
    assert all(torch.equal(before[name], w) for name, w in net.program.state_dict.items())


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norms_have_the_same_outputs_and_slopes_as_torch(affine):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=affine), nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip
    original = lg.load(layers.eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")
    student = Student(original).to(memory_format=torch.channels_last)
    if not torch.cuda.is_available():  # that a CPU does it sample by sample is seen in the graph
        assert "instance_norm" not in str(student.graph.graph)
    x = torch.rand(3, 3, 12, 20).contiguous(memory_format=torch.channels_last)
    made, wanted = student(x)[0], layers(x)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)
    made.square().sum().backward()
    wanted.square().sum().backward()
    slopes = dict(student.graph.named_parameters())
    for name, parameter in layers.named_parameters():
        if name != "0.bias":  # the norm takes it away: its slope is rounding
            torch.testing.assert_close(slopes[name].grad, parameter.grad, atol=1e-3, rtol=1e-3)
    back = student.finished(Step("finetune", {}))
    torch.testing.assert_close(back(x), wanted, atol=1e-5, rtol=0)
