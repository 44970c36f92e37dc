"""Channel pruning of every pattern is right, and its proof can fail."""

import dataclasses
import functools
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import leangan as lg
from leangan.errors import LeanganError
from leangan.generator import Step
from leangan.graph.channels import couple, slice_module
from leangan.graph.rewrite import recapture
from leangan.testing.patterns import PATTERNS
from leangan.testing.silence import Wrong, check, silenced


@functools.lru_cache(maxsize=1)
def loaded(name):
    pattern = PATTERNS[name]
    generator = lg.load(pattern.build(), example_inputs=pattern.inputs(0))
    return generator, couple(generator)


def random_keep(coupling, seed):
    """About half of each group's channels, at least one."""
    rng = random.Random(seed)
    keep = {}
    for group in coupling.groups:
        count = max(1, round(group.width * rng.uniform(0.2, 0.8)))
        keep[group.name] = sorted(rng.sample(range(group.width), count))
    return keep


def owners(coupling, path):
    return [
        (group, member)
        for group in coupling.groups
        for member in group.members
        if member.path == path and member.role in ("out", "vector")
    ]


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name):
    """Right at two sizes, and what is found is what is there."""
    pattern = PATTERNS[name]
    generator, coupling = loaded(name)
    inputs = [pattern.inputs(0), pattern.inputs(1)]
    for path, width in pattern.widths.items():
        assert [group.width for group, _ in owners(coupling, path)] == [width], path
    for path in pattern.whole:
        assert not [m for _, m in owners(coupling, path) if m.role == "out"], path
    for seed in range(4):
        keep = random_keep(coupling, seed)
        pruned = check(generator, coupling, keep, inputs, export=seed == 0)
        if pruned is not None:
            assert (pruned.params < generator.params) == bool(coupling.groups)
            assert pruned.signature == generator.signature
    # One channel is the least that may be left; and leaving all changes nothing.
    check(
        generator, coupling, {g.name: [g.width - 1] for g in coupling.groups}, inputs, export=False
    )
    check(generator, coupling, {}, inputs, export=False)
    with torch.no_grad():
        whole = silenced(generator, coupling, {})(*inputs[0])
    for x, y in zip(whole, generator.outputs(*inputs[0]), strict=True):
        assert torch.allclose(x, y, atol=1e-5 * float(y.abs().max()))
    # Nothing is passed over: each weight is in a group, or said to be fixed. Ties have two names.
    known = {m.path for g in coupling.groups for m in g.members} | {f.path for f in coupling.fixed}
    named = dict(generator.module().named_parameters(remove_duplicate=False))
    assert {id(p) for n, p in named.items() if n in known} == {id(p) for p in named.values()}


def test_nothing_to_prune_is_named_whole():
    generator, coupling = loaded("nothing-to-prune")
    assert not coupling.groups
    assert {f.path: f.params for f in coupling.fixed} == {"only.weight": 81, "only.bias": 3}
    assert all(f.reason for f in coupling.fixed)
    assert sum(f.params for f in coupling.fixed) == generator.params


def test_a_filter_of_the_input_is_named():
    _, coupling = loaded("depthwise-on-input")
    assert "blur.weight" in {f.path for f in coupling.fixed}


def test_tied_weights_stay_one():
    generator, coupling = loaded("tied-weights")
    sliced = slice_module(generator, coupling, random_keep(coupling, 1)).module
    pruned = recapture(generator, sliced, Step("prune_channels"))
    for module in (generator.module(), sliced, pruned.module()):
        assert module.get_parameter("left.weight") is module.get_parameter("right.weight")
        assert sum(p.dim() == 4 for p in module.parameters()) == 3


@pytest.mark.parametrize("keep", [[], [12], [-1]])
def test_no_channel_or_an_unknown_one_is_refused(keep):
    generator, coupling = loaded("plain-chain")
    with pytest.raises(LeanganError):
        slice_module(generator, coupling, {coupling.groups[0].name: keep})


def test_an_unknown_group_is_refused():
    generator, coupling = loaded("plain-chain")
    with pytest.raises(LeanganError):
        slice_module(generator, coupling, {"nobody": [0]})


class TestTheProofCanFail:
    """A reference that agrees with everything proves nothing."""

    inputs = PATTERNS["plain-chain"].inputs()

    def test_it_is_what_zeroed_weights_compute(self):
        """By hand: the channels' kernels and biases at 0, activations that keep 0 at 0."""
        generator, coupling = loaded("plain-chain")
        keep = random_keep(coupling, 3)
        module = generator.module()
        for group in coupling.groups:
            gone = [c for c in range(group.width) if c not in keep[group.name]]
            with torch.no_grad():
                for leaf in ("weight", "bias"):
                    module.get_parameter(f"{group.name}.{leaf}")[gone] = 0
        with torch.no_grad():
            wanted = module(*self.inputs)
        (found,) = silenced(generator, coupling, keep)(*self.inputs)
        assert torch.allclose(wanted, found, atol=1e-6)
        assert not torch.allclose(found, generator(*self.inputs), atol=1e-2)

    def test_a_mean_is_over_what_is_left(self):
        class Mean(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Conv2d(3, 6, 1)

            def forward(self, image):
                x = self.first(image)
                return torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)

        net = Mean()
        image = torch.randn(2, 3, 8, 8)
        generator = lg.load(net, example_inputs=(image,))
        coupling = couple(generator)
        (found,) = silenced(generator, coupling, {"first": [1, 4]})(image)
        left = net.first(image)[:, [1, 4]]
        assert torch.allclose(found[:, 0], left.mean(1), atol=1e-6)
        assert torch.allclose(found[:, 1], left.amax(1), atol=1e-6)
        check(generator, coupling, {"first": [1, 4]}, [(image,)], export=False)

    def test_layer_norm_is_over_what_is_left(self):
        net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
        with torch.no_grad():
            net[1].weight.uniform_(0.5, 2)
        x = torch.randn(3, 4)
        generator = lg.load(net, example_inputs=(x,))
        coupling = couple(generator)
        kept = [0, 2, 5]
        (found,) = silenced(generator, coupling, {coupling.groups[0].name: kept})(x)
        y = F.layer_norm(net[0](x)[:, kept], [3], net[1].weight[kept], net[1].bias[kept])
        assert torch.allclose(found, F.linear(y, net[2].weight[:, kept], net[2].bias), atol=1e-5)

    def broken(self, change):
        """Check with a coupling in which the first group's members are changed."""
        generator, coupling = loaded("plain-chain")
        first, *rest = coupling.groups
        first = dataclasses.replace(first, members=tuple(change(first.members)))
        coupling = dataclasses.replace(coupling, groups=(first, *rest))
        return silenced(generator, coupling, {first.name: [0, 1, 2]})(*self.inputs)

    def test_a_missing_input_axis_is_noticed(self):
        with pytest.raises(Wrong, match="removed features meet weights"):
            self.broken(lambda members: [m for m in members if m.role != "in"])

    def test_a_shifted_input_axis_is_noticed(self):
        def shift(members):
            for m in members:
                places = (*m.positions[1:], m.positions[0]) if m.role == "in" else m.positions
                yield dataclasses.replace(m, positions=places)

        with pytest.raises(Wrong, match="removed features meet weights"):
            self.broken(shift)

    def test_a_removed_output_is_noticed(self):
        generator, coupling = loaded("nothing-to-prune")
        _, chain = loaded("plain-chain")
        group = dataclasses.replace(
            chain.groups[0],
            width=3,
            members=tuple(
                dataclasses.replace(
                    m, path=m.path.replace("first", "only"), positions=((0,), (1,), (2,))
                )
                for m in chain.groups[0].members
                if m.path.startswith("first")
            ),
        )  # fmt: skip
        coupling = dataclasses.replace(coupling, groups=(group,))
        with pytest.raises(Wrong, match="output"):
            silenced(generator, coupling, {group.name: [0]})(*self.inputs)

    def test_another_network_is_noticed(self, monkeypatch):
        """A slice with the right shapes and wrong channels."""
        generator, coupling = loaded("plain-chain")
        name = coupling.groups[0].name

        def other(generator, coupling, keep):
            return slice_module(generator, coupling, {**keep, name: [3, 4]})

        monkeypatch.setattr("leangan.testing.silence.slice_module", other)
        with pytest.raises(Wrong, match="differs"):
            check(generator, coupling, {name: [0, 1]}, [self.inputs], export=False)

    def test_too_many_weights_are_noticed(self, monkeypatch):
        generator, coupling = loaded("plain-chain")
        monkeypatch.setattr(
            "leangan.testing.silence.slice_module", lambda g, c, k: slice_module(g, c, {})
        )
        with pytest.raises(Wrong, match="weights are left"):
            check(generator, coupling, random_keep(coupling, 0), [self.inputs], export=False)


def test_a_size_that_is_too_small_is_passed_over_in_silence(caplog):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), *[nn.MaxPool2d(2)] * 4, nn.Conv2d(16, 3, 1)).eval()
    generator = lg.load(net, example_inputs=[torch.rand(1, 3, 64, 64)], task="arrays")
    groups = couple(generator).groups
    assert [group.width for group in groups] == [16]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
