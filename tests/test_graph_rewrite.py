"""Edits are made on a copy, exported again and proved; what is wrong is never returned."""

from __future__ import annotations

import pytest
import torch
from task_nets import Smooth, UNet, image_generator, pair_net
from torch import nn

import leangan as lg
from leangan.errors import LeanganError
from leangan.generator import Step
from leangan.graph.channels import couple
from leangan.graph.rewrite import (
    TOLERANCE,
    free_path,
    largest_difference,
    layer_name,
    new_tensor_node,
    recapture,
    replace_tensor,
    rewrite,
    set_tensor,
    tensor_of,
    tidy,
    trace_inputs,
)
from leangan.techniques.quantize_linear import quantize

aten = torch.ops.aten


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth())


def nodes(module, target):
    return [n for n in module.graph.nodes if n.target is target]


def split_convolutions(module):
    """An exact edit: a convolution with a bias becomes one without, and an addition."""
    found = nodes(module, aten.conv2d.default)
    for conv in found:
        bias = tensor_of(module, conv.args[2])
        with module.graph.inserting_after(conv):
            total = module.graph.call_function(aten.add.Tensor, (conv, conv))
        conv.replace_all_uses_with(total, lambda user, total=total: user is not total)
        wide = replace_tensor(module, total, conv.args[2], bias.reshape(-1, 1, 1))
        total.update_arg(1, wide)
        conv.update_arg(2, None)
    return len(found)


def scale_everything(module):
    """A wrong edit."""
    (output,) = module.graph.find_nodes(op="output")
    value = output.args[0][0]
    with module.graph.inserting_after(value):
        wrong = module.graph.call_function(aten.mul.Tensor, (value, 1.01))
    value.replace_all_uses_with(wrong, delete_user_cb=lambda user: user is not wrong)
    return 1


def test_an_exact_edit_is_proved_and_noted(net):
    before = len(net.history)
    made = rewrite(net, "split", {"convolutions": split_convolutions, "none": lambda module: 0})
    (x,) = net.example({"N": 2, "H": 24, "W": 40})
    assert torch.allclose(made(x), net(x), atol=1e-6)
    step = made.history[-1]
    assert (step.name, dict(step.settings)) == ("split", {"convolutions": 3})
    assert 0 <= step.measured["largest_difference"] < 1e-5
    assert len(net.history) == before


def test_sizes_stay_free(net):
    made = rewrite(net, "split", {"convolutions": split_convolutions})
    for sizes in ({"N": 1, "H": 16, "W": 16}, {"N": 3, "H": 17, "W": 50}):
        (x,) = made.example(sizes)
        assert made(x).shape == x.shape


def test_nothing_to_do_returns_the_generator_itself(net):
    assert rewrite(net, "idle", {"none": lambda module: 0}) is net


def test_an_edit_that_changes_the_output_is_refused(net):
    with pytest.raises(LeanganError, match=r"Smooth by scale changed its output.*Please report"):
        rewrite(net, "wrong", {"scale": scale_everything})


def shift_first_bias(by):
    def edit(module):
        conv = nodes(module, aten.conv2d.default)[0]
        bias = tensor_of(module, conv.args[2])
        conv.update_arg(2, replace_tensor(module, conv, conv.args[2], bias + by))
        return 1

    return edit


def test_codes_that_flip_do_not_count_as_another_output(net):
    """A float that moves by its last bits may take the next code, far beyond float rounding."""
    eight = quantize(net, [net.example(seed=seed) for seed in range(4)])
    flipped = rewrite(eight, "nudge", {"bias": shift_first_bias(1e-5)})
    assert largest_difference(eight, flipped) > TOLERANCE
    with pytest.raises(LeanganError, match="changed its output"):
        rewrite(eight, "shift", {"bias": shift_first_bias(3e-2)})


def test_an_edit_that_makes_nan_is_refused(net):
    def poison(module):
        conv = nodes(module, aten.conv2d.default)[0]
        bias = tensor_of(module, conv.args[2])
        conv.update_arg(2, replace_tensor(module, conv, conv.args[2], bias * float("nan")))
        return 1

    with pytest.raises(LeanganError, match="changed its output"):
        rewrite(net, "poison", {"poison": poison})


def test_an_edit_that_fixes_a_size_is_refused(net):
    module = net.module()
    (x,) = trace_inputs(net)
    (output,) = module.graph.find_nodes(op="output")
    value = output.args[0][0]
    with module.graph.inserting_after(value):
        fixed = module.graph.call_function(aten.expand.default, (value, list(x.shape)))
    value.replace_all_uses_with(fixed, delete_user_cb=lambda user: user is not fixed)
    with pytest.raises(LeanganError):
        recapture(net, module, Step("narrow"))


def test_trace_inputs_are_valid_small_and_all_different():
    (x,) = trace_inputs(image_generator(UNet(), multiple=4))
    free = [x.shape[0], x.shape[2], x.shape[3]]
    assert len(set(free)) == 3
    assert all(size >= 2 for size in free)
    assert x.shape[2] % 4 == x.shape[3] % 4 == 0
    z, c = trace_inputs(pair_net())
    assert len(z) == len(c)


def test_differences_are_shares_of_the_output_range(net):
    module = net.module()
    scale_everything(module)
    found = largest_difference(net, recapture(net, module, Step("scaled")))
    (x,) = trace_inputs(net, seed=1)
    y = net(x)
    assert found == pytest.approx(0.01 * float(y.max()) / float(y.max() - y.min()), rel=1e-3)
    assert largest_difference(net, net) == 0


def test_another_shape_is_infinitely_different(net):
    other = image_generator(nn.Upsample(scale_factor=2.0), factor=2)
    assert largest_difference(net, other) == float("inf")


def test_proving_leaves_the_random_numbers_of_the_caller_alone(net):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    largest_difference(net, net)
    assert torch.equal(torch.rand(1), expected)


def test_tidying_drops_what_nothing_uses(net):
    module = net.module()
    conv = nodes(module, aten.conv2d.default)[0]
    old = str(conv.args[1].target)
    new = new_tensor_node(module, conv, "fresh.weight", tensor_of(module, conv.args[1]).clone())
    conv.update_arg(1, new)
    tidy(module)
    assert old not in dict(module.named_parameters())
    assert "fresh.weight" in dict(module.named_parameters())
    (x,) = net.example()
    assert torch.equal(module(x), net(x))


def test_tensors_are_read_through_get_attr_only(net):
    module = net.module()
    conv = nodes(module, aten.conv2d.default)[0]
    assert tensor_of(module, conv.args[1]).shape == (8, 3, 3, 3)
    assert tensor_of(module, conv.args[0]) is None
    assert tensor_of(module, conv) is None
    assert tensor_of(module, 3) is None


def test_a_shared_tensor_is_replaced_for_one_reader_only():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    generator = image_generator(Shared())
    module = generator.module()
    first, second = nodes(module, aten.conv2d.default)
    old = tensor_of(module, first.args[1])
    first.update_arg(1, replace_tensor(module, first, first.args[1], torch.zeros_like(old)))
    assert float(tensor_of(module, first.args[1]).detach().abs().max()) == 0
    assert torch.equal(tensor_of(module, second.args[1]), old)
    assert layer_name(second) == "conv"
    assert layer_name(first) != layer_name(second)


def test_a_free_path_never_overwrites():
    module = nn.Module()
    set_tensor(module, "up.weight", torch.zeros(1))
    assert free_path(module, "down.weight") == "down.weight"
    assert free_path(module, "up.weight") == "up_2.weight"
    set_tensor(module, "up_2.weight", torch.zeros(1))
    assert free_path(module, "up.weight") == "up_3.weight"
    set_tensor(module, "bias", torch.zeros(1), learned=False)
    assert free_path(module, "bias") == "bias_2"
    set_tensor(module, "conv.w_0", torch.zeros(1))
    # A tensor holds no other.
    assert free_path(module, "conv.w_0.bias") == "conv.w_0_2.bias"
    assert free_path(module, "conv.w_0.part_0.weight") == "conv.w_0_2.part_0.weight"
    set_tensor(module, "conv.w_0_2.part_0.weight", torch.zeros(1))
    assert free_path(module, "conv.w_0.part_1.weight") == "conv.w_0_2.part_1.weight"
    assert free_path(module, "conv") == "conv_2"


def test_a_network_that_needs_large_pictures_is_traced_with_such():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 30)).eval()
    generator = lg.load(net, example_inputs=[torch.rand(1, 3, 64, 64)], task="arrays")
    assert generator.smallest_size > 32
    (x,) = trace_inputs(generator)
    assert min(x.shape[2:]) >= generator.smallest_size
    assert generator(x).shape[0] == 2


def test_channels_are_found_of_a_network_that_needs_large_pictures():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 70)).eval()
    generator = lg.load(net, example_inputs=[torch.rand(1, 3, 160, 160)], task="arrays")
    assert generator.smallest_size > 128
    assert [group.width for group in couple(generator).groups] == [4]


def test_learned_tensors_are_parameters_and_others_buffers():
    module = nn.Module()
    set_tensor(module, "a.weight", torch.zeros(2))
    set_tensor(module, "a.scale", torch.zeros(2), learned=False)
    assert list(dict(module.named_parameters())) == ["a.weight"]
    assert list(dict(module.named_buffers())) == ["a.scale"]
    set_tensor(module, "a.weight", torch.ones(3), learned=False)
    assert not dict(module.named_parameters())


def test_layers_are_called_by_their_weights_path(net):
    assert [layer_name(n) for n in nodes(net.module(), aten.conv2d.default)] == ["a", "b", "c"]
