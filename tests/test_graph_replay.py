"""Asking what an output would be: the same answer as a full run, for less work."""

from __future__ import annotations

import pytest
import torch
from task_nets import UNet, image_generator
from torch import nn
from torch.fx import Interpreter, symbolic_trace

from leangan.graph.replay import Replay

aten = torch.ops.aten


@pytest.fixture(scope="module")
def net():
    return image_generator(UNet(), multiple=4).module()


@pytest.fixture(scope="module")
def inputs():
    return (torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)),)


def layers(module):
    wanted = (aten.conv2d.default, aten.conv_transpose2d.input)
    return [n for n in module.graph.nodes if n.target in wanted]


class Substituted(Interpreter):
    """The plain way: run everything, with the substitutes in place."""

    def __init__(self, module, substitutes):
        super().__init__(module)
        self.substitutes = substitutes

    def run_node(self, n):
        if n in self.substitutes:
            args, _ = self.fetch_args_kwargs_from_env(n)
            return self.substitutes[n](n, args)
        return super().run_node(n)


def whole(module, inputs, substitutes):
    with torch.no_grad():
        result = Substituted(module, substitutes).run(*inputs)
    return result[0] if isinstance(result, tuple | list) else result


def coarse(node, args):
    """The layer with its input rounded to tenths."""
    x, *rest = args
    return node.target((x * 10).round() / 10, *rest)


def test_without_substitutes_the_output_is_the_output(net, inputs):
    replay = Replay(net, inputs)
    assert torch.equal(replay.output, whole(net, inputs, {}))
    assert torch.equal(replay.changed({}), replay.output)


def test_each_layer_alone_equals_a_full_run(net, inputs):
    replay = Replay(net, inputs)
    for layer in layers(net):
        expected = whole(net, inputs, {layer: coarse})
        assert torch.equal(replay.changed({layer: coarse}), expected)
        assert not torch.equal(expected, replay.output)


def test_several_at_once_equal_a_full_run(net, inputs):
    replay = Replay(net, inputs)
    first, *_, last = layers(net)
    both = {first: coarse, last: coarse}
    assert torch.equal(replay.changed(both), whole(net, inputs, both))


def test_a_later_substitute_sees_what_an_earlier_one_made(net, inputs):
    replay = Replay(net, inputs)
    first, second = layers(net)[:2]
    seen = []

    def look(node, args):
        seen.append(args[0])
        return node.target(*args)

    replay.changed({first: lambda node, args: node.target(*args) * 0 + 2.0, second: look})
    assert torch.allclose(seen[0], torch.tensor(2.0).tanh())


def test_one_question_leaves_nothing_behind_for_the_next(net, inputs):
    replay = Replay(net, inputs)
    before = replay.output.clone()
    replay.changed(
        {n: lambda node, args: torch.zeros_like(node.target(*args)) for n in layers(net)}
    )
    assert torch.equal(replay.changed({}), before)


def test_only_what_depends_on_a_change_is_computed_again():
    calls = []

    class Count(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append(self.name)
            return x + 1

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.side, self.c = (Count(n) for n in ("a", "b", "side", "c"))

        def forward(self, x):
            y = self.a(x)
            return self.c(self.b(y)) + self.side(y)

    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, m, qualified_name):
            return isinstance(m, Count)

    net = Net()
    module = torch.fx.GraphModule(net, Leaves().trace(net))
    nodes = {n.target: n for n in module.graph.nodes if n.op == "call_module"}
    replay = Replay(module, (torch.zeros(1),))
    assert sorted(calls) == ["a", "b", "c", "side"]
    calls.clear()
    assert replay.changed({nodes["b"]: lambda node, args: args[0] * 10}).item() == 11 + 2
    assert calls == ["c"]


def test_the_first_of_several_outputs_is_what_is_asked_for():
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x + 2

    module = symbolic_trace(Two())
    first, second = (n for n in module.graph.nodes if n.op == "call_function")
    replay = Replay(module, (torch.zeros(3),))
    assert torch.equal(replay.output, torch.ones(3))
    assert torch.equal(
        replay.changed({first: lambda node, args: args[0] - 5}), torch.full((3,), -5.0)
    )
    assert torch.equal(replay.changed({second: lambda node, args: args[0]}), torch.ones(3))
