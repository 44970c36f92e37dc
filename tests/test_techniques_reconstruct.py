"""Weights refitted after channels were removed: what can be made good is, and nothing is harmed."""

from __future__ import annotations

import copy

import pytest
import torch
from task_nets import image_generator
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.graph.channels import Sliced, couple, slice_module
from leangan.techniques import lockstep
from leangan.techniques.least_squares import Sums, draw, refit
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.patches import Rows, forward_weight, phases, read_layer, stored_weight
from leangan.techniques.reconstruct import reconstruct
from leangan.testing.patterns import PATTERNS

SHAPES = {1: (1, 3, 61), 2: (1, 3, 20, 23), 3: (1, 3, 7, 8, 9)}


def noise(shape, count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=rng),) for _ in range(count)]


def loaded(net, shape):
    torch.manual_seed(0)
    return lg.load(net.eval(), example_inputs=(torch.randn(2, *shape[1:]),))


def sliced_to(generator, kept):
    """The only group of channels, cut to those kept."""
    coupling = couple(generator)
    (group,) = coupling.groups
    return slice_module(generator, coupling, {group.name: kept})


def error(generator, module, samples):
    """Root of the squared error as a share of the original's variation."""
    wrong = spread = 0.0
    for sample in samples:
        (wanted,) = generator.outputs(*sample)
        with torch.no_grad():
            found = module(*sample)
        found = found[0] if isinstance(found, tuple | list) else found
        wrong += float((wanted - found).square().sum())
        spread += float((wanted - wanted.mean()).square().sum())
    return (wrong / spread) ** 0.5


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Twins(nn.Module):
    """Two layers; of the maps between them the last half is a mixture of the first half."""

    def __init__(self, first, second, act=None):
        super().__init__()
        self.first, self.act, self.second = first, act or nn.Identity(), second
        out = 1 if isinstance(first, nn.modules.conv._ConvTransposeNd) else 0
        with torch.no_grad():
            half = first.weight.shape[out] // 2
            places = torch.arange(half)
            weight = first.weight.index_select(out, places)
            first.weight.copy_(torch.cat([weight, 2 * weight.flip(out)], out))
            first.bias.copy_(torch.cat([first.bias[:half], 2 * first.bias[:half].flip(0)]))

    def forward(self, x):
        return self.second(self.act(self.first(x)))


def twins():
    """Networks of which half the channels are superfluous, each with another reading layer."""
    conv1, conv2, conv3 = nn.Conv1d, nn.Conv2d, nn.Conv3d
    up1, up2, up3 = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    return {
        "linear": (Twins(nn.Linear(3, 6), nn.Linear(6, 3)), (1, 40, 3)),
        "1-d": (Twins(conv1(3, 6, 3), conv1(6, 3, 5, padding=2)), SHAPES[1]),
        "2-d": (Twins(conv2(3, 6, 3), conv2(6, 3, 3, padding=1), nn.ReLU()), SHAPES[2]),
        "3-d": (Twins(conv3(3, 6, 1), conv3(6, 3, 3, padding=1)), SHAPES[3]),
        "no bias": (Twins(conv2(3, 6, 3), conv2(6, 3, 3, padding=1, bias=False)), SHAPES[2]),
        "strided, dilated": (
            Twins(conv2(3, 6, 3), conv2(6, 3, (3, 2), (2, 1), (0, 2), (1, 3))),
            SHAPES[2],
        ),
        "reflecting": (
            Twins(conv2(3, 6, 3), conv2(6, 3, 3, padding=1, padding_mode="reflect")),
            SHAPES[2],
        ),
        "grouped": (
            Twins(conv2(3, 8, 3), conv2(8, 4, 3, groups=2), nn.ReLU()),
            SHAPES[2],
        ),
        "transposed 1-d": (Twins(conv1(3, 6, 3), up1(6, 3, 16, 8, 4), nn.ReLU()), SHAPES[1]),
        "transposed 2-d": (Twins(conv2(3, 6, 3), up2(6, 3, 3, 2, 1, 1), nn.ReLU()), SHAPES[2]),
        "transposed, uneven": (
            Twins(conv2(3, 6, 3), up2(6, 3, (4, 3), (2, 3), (1, 0), dilation=(2, 1))),
            SHAPES[2],
        ),
        "transposed, cropped": (Twins(conv2(3, 6, 3), up2(6, 3, 2, 1, padding=2)), SHAPES[2]),
        "transposed 3-d": (Twins(conv3(3, 6, 1), up3(6, 3, 2, 2)), SHAPES[3]),
        "after transposed": (Twins(up2(3, 6, 4, 2, 1), conv2(6, 3, 3)), SHAPES[2]),
    }


@pytest.mark.parametrize("name", twins())
def test_what_removed_maps_shared_with_others_is_taken_over(name):
    torch.manual_seed(3)
    net, shape = twins()[name]
    generator = loaded(net, shape)
    kept = [0, 1, 2]
    if name == "grouped":  # twins must be in one group; channel c stands for c and c + 4
        kept = [0, 1]
        with torch.no_grad():
            for p in (net.first.weight, net.first.bias):
                p[2:4], p[6:8] = 3 * p[0:2].flip(0), 0.5 * p[4:6]
        generator = loaded(net, shape)
    sliced = sliced_to(generator, kept)
    held_out = noise(shape, 2, seed=9)
    assert error(generator, sliced.module, held_out) > 0.1
    reconstruct(generator, sliced, noise(shape, 5))
    assert error(generator, sliced.module, held_out) < 0.005


@pytest.mark.parametrize("count", [1, 3, 6])
def test_few_inputs_are_enough_where_all_can_be_made_good(count):
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    sliced = sliced_to(generator, [0, 1, 2])
    reconstruct(generator, sliced, noise(shape, count))
    assert error(generator, sliced.module, noise(shape, 2, seed=9)) < 0.01


def test_a_map_that_is_another_moved_is_made_good_by_neighbouring_taps():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        first.weight[:, :, :, 2] = 0
        first.weight[1] = first.weight[0].roll(1, -1)
        first.bias.zero_()
        second.weight[:, 1, :, 2] = 0  # so that three columns of taps can hold it, moved
        second.weight[:, 0] = 0
    generator = loaded(nn.Sequential(first, second), SHAPES[2])
    sliced = sliced_to(generator, [0])
    held_out = noise((1, 3, 60, 70), 2, seed=9)
    assert error(generator, sliced.module, held_out) > 0.5
    reconstruct(generator, sliced, noise((1, 3, 60, 70), 5))
    # What is left is along the border, where a moved map and a moved kernel differ.
    assert error(generator, sliced.module, held_out) < 0.2


def test_the_mean_of_a_removed_map_goes_to_the_bias():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)
    with torch.no_grad():
        first.weight[3] = 0
        first.bias[3] = 5
    generator = loaded(nn.Sequential(first, second), SHAPES[2])
    sliced = sliced_to(generator, [0, 1, 2])
    before = weights(sliced.module)
    reconstruct(generator, sliced, noise(SHAPES[2], 5))
    moved = second.bias + 5 * second.weight[:, 3].sum((1, 2))
    after = weights(sliced.module)
    assert torch.allclose(after["1.bias"], moved, atol=1e-3)
    assert torch.allclose(after["1.weight"], before["1.weight"], atol=1e-3)


def test_later_layers_make_up_for_earlier_ones():
    """The third layer is not next to the removed channels, and still is refitted."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)
    )
    generator = loaded(net, (1, 3, 40, 40))
    coupling = couple(generator)
    sliced = slice_module(generator, coupling, {coupling.groups[0].name: [0, 2, 3, 5, 7]})
    only_next = copy.deepcopy(sliced)
    reconstruct(generator, sliced, noise((1, 3, 40, 40), 6))
    after = weights(sliced.module)
    with torch.no_grad():
        for name in ("2.weight", "2.bias"):
            only_next.module.get_parameter(name).copy_(after[name])
    held_out = noise((1, 3, 40, 40), 3, seed=9)
    whole = error(generator, sliced.module, held_out)
    assert whole < error(generator, only_next.module, held_out)


def test_too_few_inputs_change_nothing():
    """One row can be fitted by anything, and none is left to tell whether that is any good."""
    generator = loaded(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), (1, 6))
    sliced = sliced_to(generator, [0, 1, 2, 3])
    before = weights(sliced.module)
    reconstruct(generator, sliced, noise((1, 6), 1))
    after = weights(sliced.module)
    assert torch.equal(before["2.weight"], after["2.weight"])


def test_layers_before_any_removed_channel_keep_their_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1))
    generator = loaded(net, SHAPES[2])
    coupling = couple(generator)
    sliced = slice_module(generator, coupling, {coupling.groups[1].name: [0, 3, 5]})
    before = weights(sliced.module)
    reconstruct(generator, sliced, noise(SHAPES[2], 5))
    after = weights(sliced.module)
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["3.weight"], after["3.weight"])


def test_the_original_is_left_as_it_is():
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    before = weights(generator.module())
    reconstruct(generator, sliced_to(generator, [0, 1, 2]), noise(shape, 5))
    for name, value in weights(generator.module()).items():
        assert torch.equal(before[name], value)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2, 6)])
def test_norms_are_matched(norm):
    torch.manual_seed(0)
    # The reader has a single tap, so that it cannot make up for what the norm does.
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 1), norm)
    generator = loaded(net, SHAPES[2])
    coupling = couple(generator)
    group = next(g for g in coupling.groups if g.width == 12)
    sliced = slice_module(generator, coupling, {group.name: [0, 4, 8]})
    old = weights(sliced.module)
    reconstruct(generator, sliced, noise(SHAPES[2], 6))
    held_out = noise(SHAPES[2], 3, seed=9)
    matched = error(generator, sliced.module, held_out)
    with torch.no_grad():
        for name in ("3.weight", "3.bias"):
            sliced.module.get_parameter(name).copy_(old[name])
    assert matched < 0.95 * error(generator, sliced.module, held_out)


def test_statistics_of_a_batch_norm_are_estimated_again():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    generator = image_generator(net)
    module = generator.module()
    with torch.no_grad():
        module.get_parameter("0.weight").mul_(3)
        module.get_parameter("0.bias").add_(2)
    samples = noise((1, 3, 24, 28), 4)
    assert error(generator, module, samples) > 0.5
    reconstruct(generator, Sliced(module, {}), samples)
    var = dict(module.named_buffers())["1.running_var"]
    # The variance seen grew ninefold, so that of the statistics does.
    assert torch.allclose(var, 9 * net[1].running_var, rtol=1e-3)
    assert error(generator, module, samples) < 0.02


@pytest.mark.parametrize("name", ["shared-module", "tied-weights"])
def test_weights_that_several_layers_share_stay(name):
    pattern = PATTERNS[name]
    generator = lg.load(pattern.build(), example_inputs=pattern.inputs(0))
    coupling = couple(generator)
    keep = {g.name: range(0, g.width, 2) for g in coupling.groups}
    sliced = slice_module(generator, coupling, keep)
    before = weights(sliced.module)
    users = {}
    for node in sliced.module.graph.find_nodes(op="get_attr"):
        tensor = sliced.module.get_parameter(str(node.target))
        users.setdefault(tensor.data_ptr(), []).extend((str(node.target), u) for u in node.users)
    reconstruct(generator, sliced, [pattern.inputs(0, seed=i) for i in range(6)])
    after = weights(sliced.module)
    shared = {path for found in users.values() if len(found) > 1 for path, _ in found}
    assert shared
    for path in shared & set(before):
        assert torch.equal(before[path], after[path])


@pytest.mark.parametrize(
    "name",
    ["unet", "dense-block", "pixel-shuffle-middle", "stylegan2", "spade", "self-attention",
     "layer-norm-channels-last", "noise-concatenated", "linear-view-head", "mobile-block",
     "transposed-1d", "fourier-unit", "window-attention", "prelu"],
)  # fmt: skip
def test_every_kind_of_network_gains(name):
    pattern = PATTERNS[name]
    generator = lg.load(pattern.build(), example_inputs=pattern.inputs(0))
    coupling = couple(generator)
    keep = {g.name: range(max(1, g.width * 3 // 4)) for g in coupling.groups}
    sliced = slice_module(generator, coupling, keep)
    held_out = [pattern.inputs(0, seed=50 + i) for i in range(3)]
    torch.manual_seed(0)
    before = error(generator, sliced.module, held_out)
    reconstruct(generator, sliced, [pattern.inputs(0, seed=i) for i in range(8)])
    torch.manual_seed(0)
    assert error(generator, sliced.module, held_out) < before


def test_batches_tell_as_much_as_their_elements():
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    samples = noise(shape, 6)
    batches = [(torch.cat([samples[i][0], samples[i + 1][0]]),) for i in (0, 2, 4)]
    found = []
    for some in (samples, batches):
        sliced = sliced_to(generator, [0, 1, 2])
        reconstruct(generator, sliced, some)
        found.append(weights(sliced.module)["second.weight"])
    assert torch.allclose(*found, atol=1e-4)


def test_the_same_inputs_give_the_same_weights_and_no_random_state_is_touched():
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    found = []
    for _ in range(2):
        sliced = sliced_to(generator, [0, 1, 4])
        state = torch.random.get_rng_state()
        reconstruct(generator, sliced, noise(shape, 5))
        assert torch.equal(state, torch.random.get_rng_state())
        found.append(weights(sliced.module))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_progress_ends_with_the_last_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1))
    generator = loaded(net, SHAPES[2])
    coupling = couple(generator)
    sliced = slice_module(generator, coupling, {coupling.groups[0].name: [0, 1]})
    seen = []
    reconstruct(generator, sliced, noise(SHAPES[2], 2), lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_memory_bounds_the_number_of_inputs(monkeypatch):
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    sliced = sliced_to(generator, [0, 1, 2])
    samples = noise(shape, 6)
    assert len(Lockstep(generator.module(), sliced, samples).samples) == 6
    monkeypatch.setattr(lockstep, "_MEMORY", 1)
    assert len(Lockstep(generator.module(), sliced, samples).samples) == 1
    reconstruct(generator, sliced, samples)
    assert error(generator, sliced.module, noise(shape, 2, seed=9)) < 0.01


def test_no_input_and_other_graphs_are_refused():
    torch.manual_seed(3)
    net, shape = twins()["2-d"]
    generator = loaded(net, shape)
    with pytest.raises(UsageError, match="calibration input"):
        reconstruct(generator, sliced_to(generator, [0, 1]), [])
    other = loaded(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Tanh()), shape)
    with pytest.raises(LeanganError, match="other nodes"):
        reconstruct(generator, Sliced(other.module(), {}), noise(shape, 1))


# --- lockstep ---


def test_lockstep_shows_the_original_restricted_to_what_was_kept():
    torch.manual_seed(0)
    generator = loaded(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), SHAPES[2])
    module = generator.module()
    names = [n.name for n in module.graph.nodes if n.op == "call_function"]
    kept = torch.tensor([0, 3])
    with torch.no_grad():
        for path in ("0.weight", "0.bias"):
            module.get_parameter(path).data = module.get_parameter(path)[kept]
    sliced = Sliced(module, dict.fromkeys(names, (None, kept, None, None)))
    walk = Lockstep(generator.module(), sliced, noise(SHAPES[2], 2))
    seen = []
    for node in walk.steps():
        seen.append(node.name)
        if node.name in names:
            for whole, cut, value in zip(
                walk.originals(node, whole_axis=1), walk.originals(node), walk.values(node),
                strict=True,
            ):  # fmt: skip
                assert whole.shape[1] == 5
                assert torch.equal(whole[:, kept], cut)
                assert torch.allclose(cut, value, atol=1e-6)
    assert seen[1:] == names
    assert walk.differs == set(names)


def test_lockstep_draws_the_same_noise_in_both():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.last = nn.Conv2d(4, 3, 1)

        def forward(self, x):
            y = self.conv(x)
            return self.last(y + torch.randn_like(y))

    generator = image_generator(Noisy())
    sliced = sliced_to(generator, [1, 3])
    walk = Lockstep(generator.module(), sliced, noise(SHAPES[2], 2))
    drawn = 0
    for node in walk.steps():
        if "rand" in node.name and node.name in walk.differs:
            drawn += 1
            for a, b in zip(walk.originals(node), walk.values(node), strict=True):
                assert a.shape[1] == 2
                assert torch.equal(a, b)
    assert drawn


def test_lockstep_drops_values_after_their_last_use():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)))
    generator = loaded(net, SHAPES[2])
    walk = Lockstep(generator.module(), Sliced(generator.module(), {}), noise(SHAPES[2], 2))
    most = 0
    for node in walk.steps():
        assert walk.values(node)
        most = max(most, *(len(v) for values in walk._values.values() for v in values))
    assert most == 2


# --- layers as matrix products ---


@pytest.mark.parametrize("name", [n for n in twins() if n != "after transposed"])
def test_patches_times_the_kernel_are_the_layer(name):
    torch.manual_seed(3)
    net, shape = twins()[name]
    generator = loaded(net, shape)
    module = generator.module()
    layers = [layer for n in module.graph.nodes if (layer := read_layer(module, n))]
    layer = layers[-1]
    stored = net.second.weight.detach()
    weight = forward_weight(layer, stored)
    assert torch.equal(stored_weight(layer, weight), stored)
    kernel = tuple(weight.shape[3:])
    flat = weight.flatten(3) if kernel else weight[..., None]
    with torch.no_grad():
        x = net.act(net.first(noise(shape, 1)[0][0]))
        x = nn.functional.pad(x, (1, 1, 1, 1), "reflect") if name == "reflecting" else x
        y = net.second(net.act(net.first(noise(shape, 1)[0][0])))
        if net.second.bias is not None:
            y = (y.movedim(layer.channel_axis, -1) - net.second.bias).movedim(
                -1, layer.channel_axis
            )
    rows = Rows(layer, kernel, x)
    parts = phases(layer, kernel)
    positions = 0
    for phase in parts:
        chosen = torch.arange(rows.count(phase))
        positions += len(chosen)
        patches = rows.inputs(phase, chosen, torch.zeros(flat.shape[0] * flat.shape[2]))
        found = patches @ flat[..., phase.taps].flatten(2).mT
        assert torch.allclose(found, rows.outputs(y, phase, chosen), atol=1e-5)
    # Each output position, and each tap, belongs to one phase.
    if name != "transposed, uneven":  # there every other row reads nothing at all
        assert positions == y.numel() // (flat.shape[0] * flat.shape[1])
    taps = torch.cat([phase.taps for phase in parts])
    assert sorted(taps.tolist()) == list(range(flat.shape[3]))


# --- least squares ---


def test_the_fit_is_that_of_least_squares():
    torch.manual_seed(0)
    x, y = torch.randn(1, 300, 7), torch.randn(1, 300, 2)
    sums = Sums.empty(1, 7, 2)
    sums.add(x, y)
    found = sums.solve(torch.zeros(1, 7, 2, dtype=torch.float64), 0.0, constant=False)
    wanted = torch.linalg.lstsq(x, y).solution
    assert torch.allclose(found.float(), wanted, atol=1e-4)
    residual = (y - x @ wanted).square().sum(1)
    assert torch.allclose(sums.error(found).float(), residual, rtol=1e-4)


def test_the_ridge_pulls_towards_the_prior_whatever_the_scale():
    torch.manual_seed(0)
    x, y = torch.randn(1, 300, 7), torch.randn(1, 300, 2)
    prior = torch.randn(1, 7, 2, dtype=torch.float64)
    found = []
    for scale in (1.0, 1e-3):
        sums = Sums.empty(1, 7, 2)
        sums.add(x * scale, y)
        found.append(sums.solve(prior / scale, 0.1, constant=False) * scale)
        assert torch.allclose(sums.solve(prior / scale, 1e9, constant=False) * scale, prior)
    assert torch.allclose(*found, atol=1e-4)


def test_a_constant_is_not_pulled():
    x = torch.cat([torch.randn(1, 200, 2), torch.ones(1, 200, 1)], 2)
    sums = Sums.empty(1, 3, 1)
    sums.add(x, torch.full((1, 200, 1), 7.0))
    found = sums.solve(torch.zeros(1, 3, 1, dtype=torch.float64), 1e6, constant=True)
    assert abs(float(found[0, 2, 0]) - 7) < 1e-2


def test_outputs_that_held_out_rows_do_not_confirm_keep_their_weights():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 60, 10, generator=rng)
    truth = torch.randn(10, generator=rng)
    y = torch.stack([x[0] @ truth, torch.randn(60, generator=rng)], 1)[None]
    train, held = Sums.empty(1, 10, 2), Sums.empty(1, 10, 2)
    train.add(x[:, :15], y[:, :15])
    held.add(x[:, 15:], y[:, 15:])
    old = torch.zeros(1, 10, 2, dtype=torch.float64)
    found = refit(train, held, old, constant=False)
    assert float(held.error(found)[0, 0]) < 0.1 * float(held.error(old)[0, 0])
    assert torch.equal(found[0, :, 1], old[0, :, 1])


def test_what_is_not_finite_changes_nothing():
    sums = Sums.empty(1, 3, 2)
    sums.add(torch.full((1, 9, 3), float("nan")), torch.randn(1, 9, 2))
    old = torch.randn(1, 3, 2, dtype=torch.float64)
    assert torch.equal(refit(sums, sums, old, constant=False), old)


def test_draws_are_an_even_share_without_repetition():
    first, second = draw([100, 50], 30)
    assert (len(first), len(second)) == (20, 10)
    assert len(first.unique()) == 20
    assert int(first.max()) < 100
    assert [len(d) for d in draw([3, 2], 1000)] == [3, 2]
