"""Exact rewrites for one runtime: equal at any size, as few operators as promised."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, GraphModule
from torch.nn import functional as F

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.cost import macs
from leangan.graph.doors import (
    DOOR_REWRITES,
    conv1d_as_2d,
    joins_as_sums,
    latent_as_linear,
    outputs_as_blocks,
    rewritten,
    shuffle_by_phase,
    sink_shuffle,
    transposed_as_phases,
    transposed_as_shuffle,
    upsample_as_shuffle,
    winograd_rows,
)
from leangan.graph.fuse import normalize

aten = torch.ops.aten
SIZES = [(1, 7, 9), (3, 8, 6), (2, 21, 5)]


def make(module: nn.Module, *shape: int) -> Generator:
    """A generator with free batch and spatial sizes."""
    free = [0, *range(2, len(shape))]
    sizes = tuple(None if a in free else s for a, s in enumerate(shape))
    port = Port("x", None, {3: "NCT", 4: "NCHW"}[len(shape)], sizes, shape)
    program = capture(module.eval(), (torch.randn(shape),), [free])
    return Generator(program, Signature((port,), ()))


def ops(generator: Generator) -> list[str]:
    """The ATen operators by name; arithmetic on sizes does not count."""
    targets = [str(n.target) for n in generator.program.graph.nodes if n.op == "call_function"]
    names = [t.split(".")[1] for t in targets if t.startswith("aten.")]
    return [n for n in names if n != "sym_size"]


def same(a: Generator, b: Generator, channels: int, sizes: list[tuple[int, ...]]) -> None:
    for batch, *size in sizes:
        x = torch.randn(batch, channels, *size)
        for p, q in zip(a.outputs(x), b.outputs(x), strict=True):
            assert p.shape == q.shape
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


# Transposed convolutions


@st.composite
def axis(draw):
    """Kernel, stride, padding, output_padding and size along one axis, as torch allows them."""
    kernel, stride = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    padding = draw(st.integers(0, min(4, kernel - 1)))
    output_padding = draw(st.integers(0, min(3, stride - 1)))
    return kernel, stride, padding, output_padding, draw(st.integers(1, 9))


@st.composite
def whole_axis(draw):
    """The same where the output is a multiple of the stride: stride * (size + more)."""
    stride, padding = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    output_padding = draw(st.integers(0, min(3, stride - 1)))
    rest = 2 * padding - output_padding
    least = max(-3, -((stride + rest - 1) // stride))
    kernel = stride * (1 + draw(st.integers(least, 2))) + rest
    return kernel, stride, padding, output_padding, draw(st.integers(1, 9))


@settings(max_examples=100, deadline=None)
@given(st.tuples(axis(), axis()), st.booleans())
def test_any_transposed_convolution(axes, bias):
    kernel, stride, padding, output_padding, size = zip(*axes, strict=True)
    assume(set(stride) != {1})
    module, x, expected = transposed(kernel, stride, padding, output_padding, size, bias)
    assert transposed_as_shuffle.edit(module) == 1
    module.recompile()
    assert "conv_transpose" not in module.code
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    taps = module.get_parameter("weight").shape
    least = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    assert list(taps[2:]) == least


@settings(max_examples=100, deadline=None)
@given(st.tuples(whole_axis(), whole_axis()), st.booleans())
def test_any_transposed_convolution_in_phases(axes, bias):
    kernel, stride, padding, output_padding, size = zip(*axes, strict=True)
    assume(set(stride) != {1})
    module, x, expected = transposed(kernel, stride, padding, output_padding, size, bias)
    assert transposed_as_phases.edit(module) == 1
    module.recompile()
    assert "conv_transpose" not in module.code
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def transposed(kernel, stride, padding, output_padding, size, bias):
    """A graph of one transposed convolution, an input, and its output for that."""
    torch.manual_seed(0)
    out = [
        (n - 1) * s - 2 * p + k + o
        for n, s, p, k, o in zip(size, stride, padding, kernel, output_padding, strict=True)
    ]
    assume(min(out) > 0)
    conv = nn.ConvTranspose2d(2, 3, kernel, stride, padding, output_padding, bias=bias)
    x = torch.randn(2, 2, *size)
    graph = Graph()
    node = graph.placeholder("x")
    weight, offset = graph.get_attr("weight"), graph.get_attr("bias") if bias else None
    args = (node, weight, offset, list(stride), list(padding), list(output_padding))
    node = graph.call_function(aten.conv_transpose2d.input, args)
    node.meta["val"] = conv(x).to("meta")
    graph.output(node)
    module = GraphModule(conv, graph)
    return module, x, module(x)


def test_more_padding_than_kernel_is_left_alone():
    before = make(nn.ConvTranspose2d(2, 2, 1, 2, padding=1), 2, 2, 9, 11)
    assert transposed_as_shuffle(before) is before


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2),
        nn.ConvTranspose2d(4, 4, 3, 2, dilation=2),
        nn.ConvTranspose2d(4, 4, 3, 1, 1),
        nn.Conv2d(4, 4, 3, 2, 1),
    ],
)
def test_other_convolutions_are_left_alone(layer):
    before = make(layer, 2, 4, 9, 11)
    assert transposed_as_shuffle(before) is before
    assert transposed_as_phases(before) is before


def test_a_stack_of_transposed_convolutions():
    before = make(
        nn.Sequential(
            nn.ConvTranspose2d(3, 4, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, bias=False),
            nn.ConvTranspose2d(4, 2, (1, 4), (1, 2), (0, 1)),
            nn.Flatten(),  # a view, which a crop makes impossible without a copy
        ),
        *(2, 3, 9, 11),
    )
    after = transposed_as_shuffle(before)
    found = ops(after)
    assert found.count("conv2d") == 3
    assert found.count("pixel_shuffle") == 2
    assert "conv_transpose2d" not in found
    # k 4, s 2, p 1 needs a crop on both axes; k 3 with output padding a pad and no crop.
    assert found.count("slice") == 3
    assert found.count("pad") == 1
    assert after.history[-1].name == "transposed-as-shuffle"
    assert after.history[-1].settings == {"transposed convolutions": 3}
    names = {k.rpartition(".")[0] for k in after.program.state_dict}
    assert names == {"0", "2", "3"}
    same(before, after, 3, SIZES)
    assert transposed_as_shuffle(after) is after


def test_a_stack_in_phases():
    before = make(
        nn.Sequential(
            nn.ConvTranspose2d(3, 4, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, bias=False),
            nn.ConvTranspose2d(4, 4, 4, 4),
            nn.ConvTranspose2d(4, 2, (1, 4), (1, 2), (0, 1)),
            nn.ConvTranspose2d(2, 2, 3, 2),  # 2 * size + 1
        ),
        *(2, 3, 9, 11),
    )
    after = transposed_as_phases(before)
    assert after.history[-1].settings == {"transposed convolutions": 4}
    found = ops(after)
    # All 16 phases of kernel 4, stride 4 read the same pixel; the last layer's are not of one size.
    assert found.count("conv2d") == 4 + 4 + 1 + 2
    assert found.count("conv_transpose2d") == 1
    assert "slice" not in found
    weights = {k: tuple(v.shape) for k, v in after.program.state_dict.items() if "weight" in k}
    assert weights == {
        **{f"0.phase_{a}_{b}.weight": (4, 3, 2, 2) for a in (0, 1) for b in (0, 1)},
        # 9 taps in all, as many as the kernel has.
        **{f"2.phase_{a}_{b}.weight": (4, 4, a + 1, b + 1) for a in (0, 1) for b in (0, 1)},
        "3.phase_0_0.weight": (64, 4, 1, 1),
        **{f"4.phase_0_{b}.weight": (2, 4, 1, 2) for b in (0, 1)},
        "5.weight": (2, 2, 3, 3),
    }
    same(before, after, 3, SIZES)
    assert transposed_as_phases(after) is after


class Latent(nn.Module):
    def __init__(self, **more) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(5, 4, (4, 3), **more)
        self.up = nn.ConvTranspose2d(4, 2, 4, 2, 1)

    def forward(self, x):
        return self.up(torch.relu(self.first(x)))


def latent_generator(size: tuple[int | None, int | None], **more) -> Generator:
    free = [0, *(axis for axis, s in zip((2, 3), size, strict=True) if s is None)]
    typical = (3, 5, *(s or 7 + axis for axis, s in enumerate(size)))
    program = capture(Latent(**more).eval(), (torch.randn(typical),), [free])
    port = Port("z", "latent", "NCHW", (None, 5, *size), typical)
    return Generator(program, Signature((port,), ()))


@pytest.mark.parametrize(
    "more", [{}, {"padding": 1}, {"stride": 2, "bias": False}, {"stride": 2, "padding": (0, 1)}]
)
def test_a_latent_becomes_a_linear_layer(more):
    before = latent_generator((1, 1), **more)
    after = latent_as_linear(before)
    assert "linear" in ops(after)
    assert ops(after).count("conv_transpose2d") == 1
    assert after.program.state_dict.keys() == before.program.state_dict.keys()
    same(before, after, 5, [(1, 1, 1), (2, 1, 1), (5, 1, 1)])
    assert latent_as_linear(after) is after
    same(before, transposed_as_phases(after), 5, [(1, 1, 1), (5, 1, 1)])


@pytest.mark.parametrize("size", [(1, 2), (None, 1), (None, None)])
def test_a_latent_that_is_a_map_stays_a_map(size):
    before = latent_generator(size)
    assert latent_as_linear(before) is before


def test_grouped_latents_and_output_padding_are_left_alone():
    net = nn.ConvTranspose2d(4, 4, 4, 2, output_padding=1)
    program = capture(net, (torch.randn(3, 4, 1, 1),), [[0]])
    port = Port("z", "latent", "NCHW", (None, 4, 1, 1), (3, 4, 1, 1))
    before = Generator(program, Signature((port,), ()))
    assert latent_as_linear(before) is before
    program = capture(nn.ConvTranspose2d(4, 4, 4, groups=2), (torch.randn(3, 4, 1, 1),), [[0]])
    before = Generator(program, Signature((port,), ()))
    assert latent_as_linear(before) is before


class Upsampled(nn.Module):
    def __init__(self, kernel: int, rate: int, *, again: bool = False) -> None:
        super().__init__()
        self.conv, self.rate, self.again = nn.Conv2d(3, 2, kernel, 1, kernel // 2), rate, again

    def forward(self, x):
        y = F.interpolate(x, scale_factor=self.rate, mode="nearest")
        z = self.conv(y)
        return (z, y) if self.again else z


@pytest.mark.parametrize(("kernel", "rate", "taps"), [(3, 2, 2), (3, 3, 2), (5, 2, 3), (2, 4, 2)])
def test_nearest_upsampling_and_convolution(kernel, rate, taps):
    before = make(Upsampled(kernel, rate), 2, 3, 9, 11)
    after = upsample_as_shuffle(before)
    assert "upsample_nearest2d" not in ops(after)
    assert after.program.state_dict["conv.weight"].shape == (2 * rate * rate, 3, taps, taps)
    same(before, after, 3, SIZES)


def test_an_upsampled_map_with_two_readers_is_left_alone():
    before = make(Upsampled(3, 2, again=True), 2, 3, 9, 11)
    assert upsample_as_shuffle(before) is before


# Few outputs


@pytest.mark.parametrize(
    ("outputs", "kernel", "padding", "shape"),
    [
        (3, 7, 3, (12, 5, 8, 8)),
        (1, 3, 0, (4, 5, 4, 4)),  # smaller than its input
        (4, (3, 5), (1, 2), (16, 5, 4, 6)),
        (2, (1, 7), (0, 3), (8, 5, 1, 10)),
        (1, (5, 1), (2, 0), (4, 5, 8, 1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_few_outputs_as_blocks(outputs, kernel, padding, shape, bias):
    before = make(
        nn.Sequential(
            nn.ConvTranspose2d(3, 5, 4, 4), nn.Conv2d(5, outputs, kernel, 1, padding, bias=bias)
        ),
        *(2, 3, 9, 11),
    )
    after = outputs_as_blocks(before)
    assert after.program.state_dict["1.weight"].shape == shape
    same(before, after, 3, SIZES)
    assert outputs_as_blocks(after) is after


@pytest.mark.parametrize(
    "last",
    [
        nn.Conv2d(5, 5, 3, padding=1),  # blocks of it would fill more than the lanes
        nn.Conv2d(5, 3, 1),
        nn.Conv2d(5, 3, 4),  # an odd size
        nn.Conv2d(5, 3, 3, stride=2, padding=1),
        nn.Conv2d(5, 3, 3, padding=2, dilation=2),
    ],
)
def test_convolutions_that_blocks_do_not_serve_are_left_alone(last):
    before = make(nn.Sequential(nn.ConvTranspose2d(3, 5, 4, 4), last), 2, 3, 9, 11)
    assert outputs_as_blocks(before) is before


def test_sizes_that_may_be_odd_are_left_alone():
    before = make(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), 2, 3, 9, 11)
    assert outputs_as_blocks(before) is before


# 1-D convolutions


class Vocoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(5, 8, 7, padding=3)
        self.up = nn.ConvTranspose1d(8, 4, 16, 8, 4)
        self.dilated = nn.Conv1d(4, 4, 3, dilation=3, padding=3, padding_mode="reflect")
        self.grouped = nn.Conv1d(4, 4, 3, padding="same", groups=2, bias=False)
        self.post = nn.Conv1d(8, 1, 8, stride=2, padding=3)
        self.prelu, self.norm = nn.PReLU(4), nn.InstanceNorm1d(4, affine=True)
        self.scale = nn.Parameter(torch.randn(8, 1))

    def forward(self, x):
        x = self.up(F.leaky_relu(self.pre(F.leaky_relu(x, 0.2)), 0.1))
        y = self.prelu(self.dilated(x)) + x
        z = self.norm(self.grouped(F.leaky_relu(y))) * 0.5 + y / 3
        t = torch.sin(torch.cat([y, z], 1) * self.scale)
        t = F.pad(t, (2, 3), mode="replicate")[:, :, 2:-3]
        return torch.tanh(self.post(t))


def test_a_vocoder_is_opened_once_and_closed_once():
    before = normalize(make(Vocoder(), 2, 5, 33))
    after = conv1d_as_2d(before)
    found = ops(after)
    assert found.count("unsqueeze") == 1
    assert found.count("squeeze") == 1
    assert found.count("conv2d") == 4
    assert not [o for o in found if o.endswith("1d")]
    assert after.history[-1].settings == {"convolutions": 5}
    assert after.program.state_dict.keys() == before.program.state_dict.keys()
    assert after.params == before.params
    sizes = [(1, 4), (2, 20), (3, 31)]
    same(before, after, 5, sizes)
    assert conv1d_as_2d(after) is after
    # Its transposed convolution, of stride (1, 8), goes on through the next door.
    shuffled = transposed_as_shuffle(after)
    assert "conv_transpose2d" not in ops(shuffled)
    same(before, shuffled, 5, sizes)


class Mixed(nn.Module):
    """1-D convolutions with things between them that only make sense in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(6, 4, 3, padding=1)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        y = self.norm(self.a(x).transpose(1, 2)).transpose(1, 2)
        return self.b(y) + x, y.mean(2)


def test_operators_without_a_2d_form_stay_1d():
    before = make(Mixed(), 2, 4, 33)
    after = conv1d_as_2d(before)
    assert ops(after).count("conv2d") == 2
    assert "layer_norm" in ops(after)
    same(before, after, 4, [(1, 5), (3, 20)])


# Shuffles


class Tail(nn.Module):
    def __init__(self, kernel: int, rate: int, *, again: bool = False, padding: int | None = None):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.first = nn.Conv2d(3, 4 * rate * rate, 3, padding=1)
        self.conv = nn.Conv2d(4, 2, kernel, padding=padding, bias=kernel != 5)
        self.prelu, self.one = nn.PReLU(4), nn.PReLU()
        self.gain, self.rate, self.again = nn.Parameter(torch.randn(4, 1, 1)), rate, again

    def forward(self, x):
        y = F.pixel_shuffle(self.first(x), self.rate)
        z = self.one(self.prelu(y) * self.gain + 0.5)
        z = (torch.tanh(self.conv(z)) + 1) / 2
        return (z, y) if self.again else z


@pytest.mark.parametrize(("kernel", "rate", "taps"), [(9, 2, 5), (5, 2, 3), (9, 4, 3), (13, 3, 5)])
def test_a_tail_is_sunk(kernel, rate, taps):
    with torch.no_grad():
        module = Tail(kernel, rate)
        module.prelu.weight.normal_()
    before = make(module, 2, 3, 9, 11)
    after = sink_shuffle(before)
    assert ops(after)[-1] == "pixel_shuffle"
    assert ops(after).count("conv2d") == 2
    squared = rate * rate
    assert after.program.state_dict["conv.weight"].shape == (2 * squared, 4 * squared, taps, taps)
    same(before, after, 3, [*SIZES, (1, 2, 2)])
    assert sink_shuffle(after) is after


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Tail(3, 2), id="four times the multiplications"),
        pytest.param(Tail(9, 2, again=True), id="two readers"),
        pytest.param(Tail(9, 2, padding=3), id="no same padding"),
    ],
)
def test_a_tail_that_must_not_sink(module):
    before = make(module, 2, 3, 9, 11)
    assert sink_shuffle(before) is before


# The order of shuffles


class Shuffled(nn.Module):
    """conv -> pointwise -> shuffle -> crop -> pointwise -> conv, with constants by channel."""

    def __init__(self, rate: int, groups: int = 1, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(4, 6 * rate * rate, 3, padding=1, groups=groups, bias=bias)
        self.before, self.after = nn.PReLU(6 * rate * rate), nn.PReLU(6)
        self.gain = nn.Parameter(torch.randn(6, 1, 1))
        self.last, self.rate = nn.Conv2d(6, 3, 3), rate
        with torch.no_grad():
            self.before.weight.normal_()
            self.after.weight.normal_()

    def forward(self, x):
        y = F.pixel_shuffle(self.before(self.conv(x)), self.rate)[..., 1:, : -self.rate]
        return self.last(self.after(y) * self.gain + 0.5)


@pytest.mark.parametrize(("rate", "bias"), [(2, True), (3, False)])
def test_a_shuffle_by_phase(rate, bias):
    before = make(Shuffled(rate, bias=bias), 2, 4, 9, 11)
    after = shuffle_by_phase(before)
    names = ops(after)
    assert "pixel_shuffle" not in names
    # What is pointwise now stands beside the convolution, in front of the copies.
    assert max(n for n, name in enumerate(names) if name in ("prelu", "mul", "add")) < (
        names.index("permute")
    )
    same(before, after, 4, SIZES)
    assert shuffle_by_phase(after) is after


def test_shuffles_that_keep_their_order():
    grouped = make(Shuffled(2, groups=2), 2, 4, 9, 11)
    assert shuffle_by_phase(grouped) is grouped
    bare = make(nn.Sequential(nn.PixelShuffle(2)), 2, 4, 9, 11)
    assert shuffle_by_phase(bare) is bare


def test_what_upsampling_leaves_is_put_in_order():
    net = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 5, 3, padding=1), nn.LeakyReLU())
    before = make(net, 2, 3, 9, 11)
    after = shuffle_by_phase(upsample_as_shuffle(before))
    assert "pixel_shuffle" not in ops(after)
    assert ops(after).index("leaky_relu") < ops(after).index("permute")
    same(before, after, 3, SIZES)


# Joins


class Dense(nn.Module):
    """A dense block; one of its joins is a join of a join."""

    def __init__(self, again: bool = False):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)
        self.c, self.again = nn.Conv2d(11, 2, 1, bias=False), again

    def forward(self, x):
        one = torch.cat([x, self.a(x).relu()], 1)
        two = torch.cat([one, self.b(one).relu()], 1)
        return self.c(two) + (two.mean() if self.again else 0)


def test_joins_become_sums():
    before = make(Dense(), 2, 3, 9, 11)
    after = joins_as_sums(before)
    assert "cat" not in ops(after)
    assert ops(after).count("conv2d") == 1 + 2 + 3
    same(before, after, 3, SIZES)
    assert joins_as_sums(after) is after


def test_a_join_with_another_reader_stays():
    before = make(Dense(again=True), 2, 3, 9, 11)
    after = joins_as_sums(before)
    # The inner join's maps are read by the outer one, whose mean needs them joined.
    assert ops(after).count("cat") == ops(before).count("cat")
    same(before, after, 3, SIZES)


def test_joins_become_sums_where_weights_have_names_of_their_own():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w_0 = nn.Parameter(torch.randn(2, 6, 3, 3))

        def forward(self, x):
            return F.conv2d(torch.cat([x, x.relu()], 1), self.w_0)

    before = make(nn.Sequential(Bare()), 2, 3, 9, 11)
    after = joins_as_sums(before)
    assert "cat" not in ops(after)
    same(before, after, 3, SIZES)


# Winograd


@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_four_rows_at_once_take_half_of_the_multiplications(padding, bias):
    conv = nn.Conv2d(64, 64, 3, padding=padding, bias=bias)
    before = make(nn.Sequential(conv, nn.ReLU()), 2, 64, 9, 11)
    after = winograd_rows(before)
    assert ops(after).count("conv2d") == 12
    same(before, after, 64, [*SIZES, (1, 16, 4)])
    weights = [t for t in after.program.state_dict.values() if t.numel() > 64 * 6]
    assert [t.shape for t in weights] == [conv.weight.shape]  # its sums are not stored
    depthwise, products = 6 * 64 * 6 // 4, 6 * 64 * 64 * 3 // 4  # each for a pixel
    sizes = {"N": 1, "H": 32 + 2 - 2 * conv.padding[0], "W": 32 + 2 - 2 * conv.padding[1]}
    assert macs(before, sizes) == 32 * 32 * 64 * 64 * 9
    assert macs(after, sizes) == depthwise * 32 * sizes["W"] + products * 32 * 32


def test_rows_whose_number_is_a_multiple_of_four_are_neither_filled_up_nor_cropped():
    class Unshuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x):
            return self.conv(F.pixel_shuffle(x, 4))

    before = make(Unshuffled(), 2, 64 * 16, 3, 5)
    after = winograd_rows(before)
    assert not {"pad", "slice"} & set(ops(after))
    same(before, after, 64 * 16, SIZES)


def test_convolutions_that_share_a_kernel_share_the_sums_of_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    before = make(Twice(), 2, 64, 9, 11)
    after = winograd_rows(before)
    assert sum("winograd.inputs" in name for name in after.program.state_dict) == 6
    same(before, after, 64, SIZES)
    # Done once more it finds only products, which are no kernels of 3x3.
    assert winograd_rows(after) is after


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 5),
        nn.Conv2d(64, 64, (3, 1)),
    ],
    ids=["few channels", "strided", "dilated", "grouped", "5x5", "3x1"],
)
def test_convolutions_that_gain_nothing_keep_their_rows(conv):
    before = make(nn.Sequential(conv), 2, conv.in_channels, 9, 11)
    assert winograd_rows(before) is before


def test_nothing_to_do_returns_the_same_object():
    before = make(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 2, 3, 9, 11)
    assert all(door(before) is before for door in DOOR_REWRITES.values())
    assert not any(door.applies(before) for door in DOOR_REWRITES.values())
    assert list(DOOR_REWRITES) == [
        "conv1d-as-2d",
        "latent-as-linear",
        "transposed-as-phases",
        "transposed-as-shuffle",
        "upsample-as-shuffle",
        "sink-shuffle",
        "outputs-as-blocks",
        "shuffle-by-phase",
        "winograd-rows",
        "joins-as-sums",
    ]


def test_what_there_is_to_do_is_known_without_doing_it():
    before = make(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2)), 2, 3, 9, 11)
    graph = before.program.graph_module.code
    found = [name for name, door in DOOR_REWRITES.items() if door.applies(before)]
    assert found == [name for name, door in DOOR_REWRITES.items() if door(before) is not before]
    assert "shuffle-by-phase" in found
    assert before.program.graph_module.code == graph


def test_what_was_made_of_a_chain_is_not_made_again():
    before = make(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2)), 2, 3, 9, 11)
    alone = rewritten(before, ("shuffle-by-phase",))
    assert [s.name for s in alone.history[len(before.history) :]] == ["shuffle-by-phase"]
    assert rewritten(before, ("shuffle-by-phase",), [before, alone]) is alone
    assert rewritten(before, ("shuffle-by-phase", "joins-as-sums"), [alone]) is alone
    assert rewritten(before, (), [alone]) is before
    assert rewritten(before, ("sink-shuffle",), [alone]) is not alone
