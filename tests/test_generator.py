"""The one object that travels: ports that know their meaning, generators that never change."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from task_nets import Smooth, image_generator, latent_net, pair_net
from torch import nn

from leangan.errors import LeanganError, UnknownValue
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.techniques.quantize_linear import quantize


def port(**changes):
    facts = {
        "name": "photo", "kind": "image", "layout": "NCHW", "shape": (None, 3, None, None),
        "typical": (1, 3, 32, 32), "range": (-1.0, 1.0), "multiple": (1, 1, 4, 4),
    }  # fmt: skip
    return Port(**{**facts, **changes})


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), value_range=(-1.0, 1.0), multiple=4)


def test_axes_must_agree_in_number():
    for wrong in ({"layout": "NCH"}, {"typical": (1, 3, 32)}, {"multiple": (1, 4)}):
        with pytest.raises(LeanganError, match=r"'photo'.*number of axes"):
            port(**wrong)


def test_a_kind_must_be_one_of_the_known():
    with pytest.raises(LeanganError, match="'photograph' is no kind; choose from image"):
        port(kind="photograph")
    assert port(kind=None).kind is None


def test_multiples_are_one_where_nothing_is_said():
    assert [port().multiple_of(axis) for axis in range(4)] == [1, 1, 4, 4]
    assert port(multiple=()).multiple_of(2) == 1


def test_an_unknown_range_is_asked_for_by_name():
    assert port().known_range() == (-1.0, 1.0)
    with pytest.raises(UnknownValue, match=r"'photo'.*--range photo="):
        port(range=None).known_range()


def test_a_signature_survives_json():
    signature = Signature((port(), port(name="z", kind=None, range=None)), (port(multiple=()),))
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


def test_a_generator_cannot_be_changed(net):
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.name = "other"


def test_a_wrong_number_of_inputs_is_named():
    generator = pair_net()
    with pytest.raises(LeanganError, match=r"Pair takes 2 inputs \(z, c\), 1 were given"):
        generator(torch.randn(1, 4))


def test_running_leaves_no_gradients(net):
    assert not net(*net.example()).requires_grad


def test_outputs_are_always_a_tuple(net):
    (x,) = net.example()
    (only,) = net.outputs(x)
    assert torch.equal(only, net(x))

    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    made = capture(Two().eval(), [torch.rand(2, 3)], [[0]])
    one = Port("x", "feature", "NC", (None, 3), (1, 3))
    pair = Generator(made, Signature((one,), (one, one)))
    y = torch.rand(4, 3)
    first, second = pair.outputs(y)
    assert torch.equal(first, y + 1)
    assert torch.equal(second, y * 2)


def test_examples_respect_ranges_sizes_and_fixed_axes(net):
    (x,) = net.example({"N": 2, "C": 7, "H": 40, "W": 48})
    assert x.shape == (2, 3, 40, 48)
    assert -1 <= float(x.min()) < -0.9
    assert 0.9 < float(x.max()) <= 1
    (usual,) = net.example()
    assert usual.shape == (1, 3, 32, 32)


def test_examples_of_unknown_range_are_normal():
    (z,) = latent_net().example({"N": 512})
    assert float(z.abs().max()) > 2
    assert abs(float(z.std()) - 1) < 0.1


def test_inputs_that_share_a_letter_share_its_size():
    z, c = pair_net().example({"N": 5})
    assert len(z) == len(c) == 5


def test_a_seed_says_everything(net):
    (a,), (b,), (c,) = net.example(seed=3), net.example(seed=3), net.example(seed=4)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_training_a_copy_leaves_the_generator_alone(net):
    (x,) = net.example()
    before = net(x)
    with torch.no_grad():
        for weight in net.module().parameters():
            weight.zero_()
    assert torch.equal(net(x), before)


def test_weights_in_8_bits_count_as_weights(net):
    small = quantize(net, [net.example(seed=s) for s in range(2)])
    assert small.params == net.params == sum(p.numel() for p in Smooth().parameters())
    assert small.bytes < 0.6 * net.bytes
    assert [step.name for step in small.history][-1] == "quantize_linear"
    assert "quantize_linear" not in [step.name for step in net.history]
