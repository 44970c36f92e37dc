"""Which channels a criterion would keep, on networks where the answer is known."""

from __future__ import annotations

import pytest
import torch
from task_nets import UNet, image_generator
from torch import nn

from leangan.errors import LeanganError, UsageError
from leangan.graph.channels import couple
from leangan.graph.observe import GradientMoments, Moments, observe, observe_gradients, pick_rows
from leangan.graph.replay import Replay
from leangan.techniques.importance import CRITERIA, Context, criterion, describe_groups
from leangan.techniques.importance.redundancy import reading, removal_order
from leangan.techniques.importance.sensitivity import least_important, sensitivity, through

NOISE = [
    (torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(i)) * 2 - 1,)
    for i in range(3)
]


class Chain(nn.Module):
    """Convolution, norm where wanted, activation, convolution: one group, one reader."""

    def __init__(self, width=8, norm=None, act=None, kernel=3):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, width, kernel, padding=kernel // 2)
        self.norm = norm or nn.Identity()
        self.act = act or nn.Identity()
        self.last = nn.Conv2d(width, 3, kernel, padding=kernel // 2)

    def forward(self, x):
        return self.last(self.act(self.norm(self.first(x))))


def context_of(net, samples=NOISE, seed=0):
    generator = image_generator(net, value_range=(-1.0, 1.0))
    return Context(generator, generator.module(), couple(generator), samples, seed)


def scores_of(name, net, samples=NOISE):
    context = context_of(net, samples)
    (group,) = context.coupling.groups
    return CRITERIA[name].score(context)[group.name]


# --- statistics ---


def test_moments_are_those_of_all_rows_seen():
    values = [torch.randn(2, 5, 3, 4, dtype=torch.float64) for _ in range(3)]
    moments = Moments(1)
    for value in values:
        moments.see(value)
    rows = torch.cat([v.movedim(1, -1).reshape(-1, 5) for v in values])
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(rows.T, correction=0))


def test_rows_are_drawn_without_repetition_and_the_same_for_the_same_seed():
    value = torch.arange(200.0).reshape(2, 1, 10, 10)

    def draw(seed):
        return pick_rows(value, 1, 50, torch.Generator().manual_seed(seed))

    assert len(draw(0).unique()) == 50
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_observers_see_each_sample_once():
    module = image_generator(Chain()).module()
    seen = []
    watcher = type("Watcher", (), {"see": lambda self, value: seen.append(value.shape)})()
    conv = next(n.name for n in module.graph.nodes if "conv2d" in n.name)
    observe(module, NOISE, {conv: [watcher]})
    assert seen == [(1, 8, 24, 28)] * 3


def test_gradients_predict_the_squared_error_of_the_output():
    context = context_of(Chain())
    (reader,) = context.coupling.groups[0].readers
    moments = GradientMoments(reader.axis)
    observe_gradients(context.module, NOISE * 4, {(reader.node, reader.source): [moments]})
    # White noise of one variance per channel at the reader's input, for real.
    variance = torch.tensor([1.0, 0.2, 0.0, 0.5, 0.1, 2.0, 0.3, 0.7])
    replay = Replay(context.module, NOISE[0])
    node = next(n for n in context.module.graph.nodes if n.name == reader.source)

    def noisy(node, args):
        x = node.target(*args)
        return x + torch.randn_like(x) * variance.sqrt()[:, None, None]

    torch.manual_seed(0)
    errors = [(replay.changed({node: noisy}) - replay.output).square().mean() for _ in range(20)]
    expected = (moments.gram.diagonal() * variance.double()).sum()
    assert float(expected) == pytest.approx(float(torch.stack(errors).mean()), rel=0.1)


def test_gradients_count_only_what_flows_through_the_reader_and_leave_weights_trainable():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.down = nn.Conv2d(4, 3, 1)
            nn.init.zeros_(self.side.weight)

        def forward(self, x):
            y = self.up(x)
            return self.down(y + self.side(y))

    module = image_generator(Skip()).module()
    side = [n for n in module.graph.nodes if n.name.startswith("conv2d")][1]
    assert isinstance(side.args[0], torch.fx.Node)
    seen = GradientMoments(1)
    observe_gradients(module, NOISE, {(side.name, side.args[0].name): [seen]})
    assert float(seen.gram.abs().max()) == 0.0
    assert all(p.requires_grad for p in module.parameters())


# --- redundancy ---


def spd(size, seed):
    root = torch.randn(
        size, size + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return root @ root.T


@pytest.mark.parametrize("each", [1, 2])
def test_damages_of_a_sequence_add_up_to_that_of_removing_all_at_once(each):
    size, count = 8 * each + 3, 5
    covariance, weight = spd(size, 0), spd(size, 1)
    positions = tuple(tuple(2 + c + 8 * i for i in range(each)) for c in range(8))
    order, added = removal_order([reading(covariance, weight, positions)], 8)
    gone = torch.tensor([p for c in order[:count] for p in positions[c]])
    left = torch.tensor([i for i in range(size) if i not in gone])
    by = torch.linalg.solve(covariance[left][:, left], covariance[left][:, gone])
    residual = covariance[gone][:, gone] - by.T @ covariance[left][:, gone]
    expected = (weight[gone][:, gone] * residual).sum()
    assert float(added[:count].sum()) == pytest.approx(float(expected), rel=1e-2)
    assert sorted(order) == list(range(8))


def test_the_first_channel_to_go_is_the_one_of_least_damage_over_all_readers():
    covariance = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    one = torch.diag(torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64))
    two = torch.diag(torch.tensor([1.0, 9.0, 0.5], dtype=torch.float64))
    positions = ((0,), (1,), (2,))
    order, added = removal_order([reading(covariance, m, positions) for m in (one, two)], 3)
    assert order == [2, 0, 1]  # damages 6, 20 and 4.5 in sum: none explains another
    torch.testing.assert_close(added, torch.tensor([4.5, 6.0, 20.0]).double(), rtol=1e-3, atol=0)


def test_channels_that_a_reader_does_not_read_cost_nothing_there():
    positions = ((0, 1), (2,), ())
    order, added = removal_order([reading(spd(3, 0), spd(3, 1), positions)], 3)
    assert order[0] == 2
    assert float(added[0]) == 0.0
    assert bool((added[1:] > 0).all())


def test_of_two_equal_maps_one_is_free_and_the_other_then_is_not():
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        net.first.weight[6] = 2 * net.first.weight[3]
        net.first.bias[6] = 2 * net.first.bias[3]
    scores = scores_of("redundancy", net)
    first = int(scores.argmin())
    assert first in (3, 6)
    assert float(scores[first]) < 1e-3 * float(scores[9 - first])
    assert int(scores_of("l1", net).argmin()) not in (3, 6)


def test_a_map_that_the_output_ignores_goes_first():
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        net.last.weight[:, 5] = 0.0
    for name in ("redundancy", "taylor"):
        scores = scores_of(name, net)
        assert int(scores.argmin()) == 5, name
        assert float(scores[5]) < 1e-6 * float(scores.max()), name


def test_a_neighbour_that_is_no_candidate_explains_too():
    class Dense(nn.Module):
        """The second convolution reads the picture beside the maps made of it."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.grow, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(7, 3, 3, padding=1)

        def forward(self, x):
            return self.last(torch.cat([x, self.grow(x).tanh()], 1))

    net = Dense()
    with torch.no_grad():
        net.grow.weight *= 4
        net.grow.weight[2] *= 1e-2  # tanh is the identity there: a mix of the three colours
        net.grow.bias[2] = 0.0
        net.last.weight[:, 5] *= 1e2
    assert int(scores_of("redundancy", net).argmin()) == 2


# --- the others, each where the answer is known ---


def test_magnitudes_are_those_of_the_kernels_that_compute_a_channel():
    net = Chain()
    with torch.no_grad():
        net.first.weight[4] *= 0.01
        net.last.weight[:, 2] *= 0.01  # read, not computed: does not count
    for name, order in (("l1", 1), ("l2", 2)):
        scores = scores_of(name, net, ())
        sizes = net.first.weight.detach().double().flatten(1).norm(order, 1)
        torch.testing.assert_close(scores, sizes / sizes.mean())


def test_norm_scale_reads_the_norm_and_refuses_without_one():
    net = Chain(norm=nn.BatchNorm2d(8, affine=True))
    with torch.no_grad():
        net.norm.weight.copy_(torch.arange(8.0) - 3)
    scores = scores_of("norm-scale", net, ())
    sizes = (torch.arange(8.0) - 3).abs().double()
    torch.testing.assert_close(scores, sizes / sizes.mean())
    with pytest.raises(LeanganError, match=r"norm-scale.*redundancy"):
        scores_of("norm-scale", Chain(), ())


def test_norm_scale_is_not_the_bias_of_the_norm():
    net = Chain(norm=nn.InstanceNorm2d(8, affine=True))
    with torch.no_grad():
        net.norm.bias.copy_(torch.arange(8.0))
    scores = scores_of("norm-scale", net, ())
    torch.testing.assert_close(scores, torch.ones(8, dtype=torch.float64))


def test_maps_that_are_mostly_zero_or_small():
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        net.first.bias[1] = -100.0
    assert float(scores_of("apoz", net)[1]) == 0.0
    assert int(scores_of("apoz", net).argmin()) == 1
    assert int(scores_of("mean-activation", net).argmin()) == 1


def test_next_to_nothing_counts_as_zero_beside_what_is_large():
    net = Chain(act=nn.LeakyReLU(1e-4), kernel=1)
    plain = Chain(act=nn.ReLU(), kernel=1)
    exact = scores_of("apoz", plain)
    alive = exact > 0.1  # a map that is nowhere positive is small as a whole, not in part
    assert int(alive.sum()) > 1
    torch.testing.assert_close(scores_of("apoz", net)[alive], exact[alive], atol=0.02, rtol=0)


def test_a_map_of_one_pattern_has_the_lowest_rank():
    net = Chain(act=nn.Tanh(), kernel=1)
    with torch.no_grad():
        net.first.weight[6] = 0.0  # constant: rank 1
    assert int(scores_of("feature-rank", net).argmin()) == 6


def test_geometric_median_lets_go_of_what_lies_in_the_middle():
    net = Chain()
    with torch.no_grad():
        net.first.weight[2] = net.first.weight.mean(0)
    assert int(scores_of("geometric-median", net, ()).argmin()) == 2


def test_random_is_the_same_for_the_same_seed_only():
    score = CRITERIA["random"].score

    def draw(seed):
        return next(iter(score(context_of(Chain(), (), seed)).values()))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("name", [n for n in CRITERIA if n != "norm-scale"])
def test_every_criterion_scores_every_group_and_changes_nothing(name):
    generator = image_generator(UNet(), multiple=4)
    module = generator.module()
    before = {path: p.clone() for path, p in module.named_parameters()}
    samples = [(torch.rand(1, 3, 16, 24),)]
    context = Context(generator, module, couple(generator), samples)
    scores = CRITERIA[name].score(context)
    assert set(scores) == {g.name for g in context.coupling.groups}
    for group in context.coupling.groups:
        assert scores[group.name].shape == (group.width,)
        assert scores[group.name].dtype == torch.float64
        assert bool(scores[group.name].isfinite().all())
        assert bool((scores[group.name] >= 0).all())
    assert all(torch.equal(before[path], p) for path, p in module.named_parameters())


def test_axes_at_the_end_and_maps_in_time_are_judged_too():
    class Tokens(nn.Module):
        """(N, 3, T) -> linear over channels at the end -> (N, 3, T)."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.up, self.mid = nn.Conv1d(3, 6, 3, padding=1), nn.Linear(6, 5)
            self.down = nn.Linear(5, 3)

        def forward(self, x):
            x = x.flatten(2)
            return self.down(self.mid(self.up(x).tanh().mT).relu()).mT

    generator = image_generator(Tokens(), fixed=True, size=16)
    samples = [(torch.rand(1, 3, 16, 16),)]
    context = Context(generator, generator.module(), couple(generator), samples)
    assert sorted(g.width for g in context.coupling.groups) == [5, 6]
    for name in ("redundancy", "apoz", "feature-rank", "taylor", "mean-activation"):
        scores = CRITERIA[name].score(context)
        assert all(scores[g.name].shape == (g.width,) for g in context.coupling.groups), name


def test_unknown_criteria_are_refused_with_the_near_ones():
    with pytest.raises(UsageError, match="feature-rank"):
        criterion("featurerank")
    with pytest.raises(UsageError, match="redundancy"):
        criterion("zzz")


# --- sensitivity ---


def test_scaled_scores_add_up_to_the_measured_error():
    context = context_of(Chain(act=nn.ReLU()))
    (group,) = context.coupling.groups
    scores = CRITERIA["l1"].score(context)
    scaled = sensitivity(context, scores, refit=False)[group.name]
    removed = least_important(scores[group.name], 0.25)
    assert len(removed) == 2
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        whole = [net(x) for (x,) in NOISE]
        net.last.weight[:, removed] = 0.0
        errors = [(net(x) - y).square().mean() for (x,), y in zip(NOISE, whole, strict=True)]
    assert float(scaled[removed].sum()) == pytest.approx(float(sum(errors)) / 3, rel=1e-3)
    assert torch.equal(scaled.argsort(), scores[group.name].argsort())


def test_with_refit_what_others_explain_costs_nothing():
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        net.first.weight[6], net.first.bias[6] = net.first.weight[3], net.first.bias[3]
        net.first.weight[5], net.first.bias[5] = 0.0, 3.0  # constant: its mean says it all
    context = context_of(net)
    (group,) = context.coupling.groups
    scores = {group.name: torch.ones(8).double()}
    scores[group.name][[5, 6]] = 0.1
    gone = [5, 6]
    plain = sensitivity(context, scores, refit=False)[group.name][gone].sum()
    refitted = sensitivity(context, scores, refit=True)[group.name][gone].sum()
    assert float(refitted) < 1e-3 * float(plain)
    assert float(plain) > 0


def test_scores_go_through_what_was_measured_and_beyond():
    scores = torch.tensor([4.0, 1.0, 2.0, 1.0, 8.0]).double()
    scaled = through(scores, {2: 10.0, 3: 40.0})
    torch.testing.assert_close(scaled, torch.tensor([60.0, 5.0, 30.0, 5.0, 120.0]).double())


def test_a_second_measurement_below_the_first_does_not_make_channels_free():
    scores = torch.tensor([1.0, 1.0, 1.0, 2.0]).double()
    scaled = through(scores, {2: 10.0, 3: 4.0})
    assert float(scaled.min()) == pytest.approx(5.0)
    assert bool((scaled >= 5.0).all())


def test_scores_of_zero_share_what_was_measured():
    scaled = through(torch.zeros(4).double(), {1: 0.0, 2: 6.0})
    torch.testing.assert_close(scaled, torch.tensor([0.0, 6.0, 6.0, 6.0]).double())


@pytest.mark.parametrize(("width", "count"), [(1, 1), (2, 1), (3, 1), (8, 2)])
def test_never_all_channels_are_taken_out(width, count):
    assert len(least_important(torch.rand(width), 0.25)) == count


# --- inspect ---


def test_groups_are_described_in_plain_values():
    net = Chain(act=nn.ReLU())
    with torch.no_grad():
        net.first.bias[1] = -100.0
    generator = image_generator(net, value_range=(-1.0, 1.0))
    (found,) = describe_groups(generator, NOISE)
    assert (found["name"], found["width"], found["macs_share"]) == ("first", 8, 1.0)
    assert found["params"] == 3 * 8 * 9 + 8 + 8 * 3 * 9
    assert found["dispensable"]["apoz"] == 1 / 8
    assert found["dispensable"]["redundancy"] >= 1 / 8
    assert "norm-scale" not in found["dispensable"]
    (blind,) = describe_groups(generator)
    assert set(blind["dispensable"]) == {"l1", "l2", "geometric-median", "random"}
    with pytest.raises(UsageError, match="calibration"):
        describe_groups(generator, by=["apoz"])
