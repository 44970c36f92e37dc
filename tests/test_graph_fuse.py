"""Rewrites that are always right: what they remove, and that nothing else changes."""

import pytest
import torch
import torchao.quantization.pt2e  # noqa: F401  (registers the quantize operators)
from torch import Tensor, nn

import leangan as lg
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.fuse import TINY, normalize
from leangan.graph.rewrite import layer_name

QDQ = torch.ops.quantized_decomposed
LAYOUTS = {2: "NC", 3: "NCT", 4: "NCHW"}


def make(module: nn.Module, *shape: int) -> Generator:
    """A generator with free batch and spatial sizes."""
    free = [0, *range(2, len(shape))]
    sizes = tuple(None if a in free else s for a, s in enumerate(shape))
    port = Port("x", None, LAYOUTS[len(shape)], sizes, shape)
    program = capture(module.eval(), (torch.randn(shape),), [free])
    return Generator(program, Signature((port,), ()))


def ops(generator: Generator) -> list[str]:
    """The ATen operators by name; the reading of a tuple's part does not count."""
    targets = [str(n.target) for n in generator.program.graph.nodes if n.op == "call_function"]
    return [t.split(".")[1] for t in targets if t.startswith("aten.")]


def same(a: Generator, b: Generator, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        x = torch.randn(shape)
        for p, q in zip(a.outputs(x), b.outputs(x), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def shake(module: nn.Module) -> nn.Module:
    """Statistics and affine weights as after training, and not 0 and 1."""
    for m in module.modules():
        if getattr(m, "running_mean", None) is not None:
            m.running_mean.normal_()
            m.running_var.uniform_(0.3, 2.0)
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d) and m.affine:
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    return module


NORMALIZERS = {
    "weight_norm": nn.utils.weight_norm,
    "weight_norm parametrized": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "spectral_norm parametrized": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_weight_normalizations_are_baked_under_the_plain_name(kind):
    module = nn.Sequential()
    module.add_module("conv", NORMALIZERS[kind](nn.Conv1d(4, 6, 3)))
    module.add_module("up", NORMALIZERS[kind](nn.ConvTranspose1d(6, 4, 4, 2, 1)))
    before = make(module, 2, 4, 33)
    after = normalize(before)
    assert ops(after) == ["conv1d", "conv_transpose1d"]
    assert sorted(after.program.state_dict) == ["conv.bias", "conv.weight", "up.bias", "up.weight"]
    nodes = [n for n in after.module().graph.nodes if n.op == "call_function"]
    assert [layer_name(n) for n in nodes] == ["conv", "up"]
    assert isinstance(dict(after.module().named_parameters())["up.weight"], nn.Parameter)
    same(before, after, (1, 4, 9), (3, 4, 20))
    assert normalize(after) is after


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), (2, 4, 9, 11)),
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 9, 11)),
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False), (2, 4, 9, 11)),
        (nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), (2, 4, 9, 11)),
        (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), (2, 4, 9, 11)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 33)),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 33)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (2, 4)),
        (
            nn.Conv2d(4, 6, 3),
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            (2, 4, 9, 11),
        ),
    ],
)
def test_fixed_norms_are_folded_into_the_layer_before(layer, norm, shape):
    before = make(shake(nn.Sequential(layer, norm)), *shape)
    after = normalize(before)
    assert len(ops(after)) == 1
    assert sorted(after.program.state_dict) == ["0.bias", "0.weight"]
    same(before, after, shape, (5, 4, *(s + 3 for s in shape[2:])))
    assert "norms folded into the layer before" in after.history[-1].settings
    assert after.history[-1].measured["largest_difference"] < 1e-5


def test_two_norms_in_a_row_are_folded():
    module = shake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    before = make(module, 2, 3, 9, 11)
    after = normalize(before)
    assert ops(after) == ["conv2d"]
    same(before, after, (1, 3, 5, 7))


def test_a_norm_in_front_is_folded_only_without_padding():
    for padding, count in ((0, 1), (1, 2)):
        module = shake(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, 1, padding)))
        before = make(module, 2, 3, 9, 11)
        after = normalize(before)
        assert len(ops(after)) == count + 1
        same(before, after, (1, 3, 5, 7))


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_convolution_with_another_reader_keeps_its_norm():
    before = make(shake(TwoReaders()), 2, 3, 9, 11)
    assert normalize(before) is before


class SharedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(self.conv(x)).relu())


def test_a_shared_weight_is_not_changed_for_its_other_reader():
    before = make(shake(SharedWeight()), 2, 3, 9, 11)
    after = normalize(before)
    assert ops(after) == ["conv2d", "relu", "conv2d"]
    assert sorted(after.program.state_dict) == [
        "conv.bias",
        "conv.weight",
        "conv_2.bias",
        "conv_2.weight",
    ]
    same(before, after, (1, 3, 5, 7))


def test_norms_with_statistics_of_the_input_stay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True))
    before = make(module, 2, 3, 9, 11)
    assert normalize(before) is before


class Nothing(nn.Module):
    """Operators that do nothing, around one that does."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x.clone() * 1 + 0, (0, 0, 0, 0))
        x = x.view(x.shape[0], 3, x.shape[2], x.shape[3])[:, :, :]
        return nn.functional.dropout(x.pow(2) / 1.0, 0.5, self.training)


def test_identities_go_and_squares_become_products():
    before = make(Nothing(), 2, 3, 9, 11)
    after = normalize(before)
    assert ops(after) == ["mul"]
    same(before, after, (1, 3, 5, 7))


class Something(nn.Module):
    """Looks like nothing, and is not."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.transpose(1, 2).reshape(x.shape[0], -1)  # needs its copy
        return y, nn.functional.pad(x, (0, 1)) * 1.5 + x.sum().pow(3)


def test_operators_that_do_something_stay():
    before = make(Something(), 2, 3, 9, 11)
    after = normalize(before)
    assert after is before


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.register_buffer("scale", torch.tensor(0.5))
        self.start = nn.Parameter(torch.randn(1, 6))

    def forward(self, x):
        y = nn.functional.linear(x, self.fc.weight * self.scale, self.fc.bias)
        return y + self.start.expand(x.shape[0], 6), torch.rand_like(self.start)


def test_constants_fold_but_not_random_or_free_sizes():
    module = Constants()
    before = make(module, 2, 4)
    after = normalize(before)
    assert "mul" not in ops(after)
    assert "expand" in ops(after)
    assert any(o.startswith("rand") for o in ops(after))
    assert set(after.program.state_dict) == {"fc.weight", "fc.bias", "start"}
    torch.testing.assert_close(after.program.state_dict["fc.weight"], module.fc.weight * 0.5)


def test_denormal_weights_are_flushed():
    module = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        module.weight[0, 0] = TINY / 4
        module.weight[1, 1] = -TINY / 8
        module.weight[0, 1] = TINY
    before = make(module, 2, 2, 5, 7)
    after = normalize(before)
    weight = after.program.state_dict["weight"]
    assert (weight == 0).sum() == 2
    assert weight[0, 1].item() == TINY
    assert before.program.state_dict["weight"][0, 0] != 0
    assert normalize(after) is after


def test_free_sizes_stay_free():
    after = normalize(
        make(shake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), 2, 3, 9, 11)
    )
    assert after(torch.randn(7, 3, 23, 31)).shape == (7, 4, 21, 29)


class Quantized(nn.Module):
    """As PT2E leaves a convolution, with a norm and a clone behind it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Module()
        self.conv.register_buffer("weight", torch.randint(-127, 127, (4, 3, 3, 3)).char())
        self.register_buffer("scale", torch.rand(4) / 100)
        self.register_buffer("zero", torch.zeros(4, dtype=torch.int64))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        bounds = (-127, 127, torch.int8)
        x = QDQ.dequantize_per_tensor(
            QDQ.quantize_per_tensor(x, 0.02, 3, *bounds), 0.02, 3, *bounds
        )
        weight = QDQ.dequantize_per_channel(self.conv.weight, self.scale, self.zero, 0, *bounds)
        return self.norm(nn.functional.conv2d(x, weight)).clone()


def test_quantize_and_dequantize_are_not_touched():
    before = make(shake(Quantized()), 2, 3, 9, 11)
    after = normalize(before)
    assert after.history[-1].settings == {"identities removed": 1}
    assert after.program.state_dict["conv.weight"].dtype == torch.int8
    targets = [str(n.target) for n in after.program.graph.nodes]
    assert sum("quantize" in t for t in targets) == 3
    assert layer_name(next(n for n in after.module().graph.nodes if n.name == "conv2d")) == "conv"


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y + torch.randn_like(y) + torch.tensor([0.5]).exp()


def test_a_generator_that_draws_noise_can_be_proved():
    before = make(shake(Noisy()), 2, 3, 9, 11)
    after = normalize(before)
    assert ops(after) == ["conv2d", "randn_like", "add", "add"]
    assert after.history[-1].measured["largest_difference"] < 1e-5
    assert normalize(after) is after


class Spelled(nn.Module):
    """A pixel shuffle by views, its channels in the order of PyTorch or of TensorFlow."""

    def __init__(self, order, split):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.order, self.split = order, split

    def forward(self, x):
        x = self.conv(x)
        n, _, h, w = x.shape
        x = x.view(n, *self.split, h, w).permute(self.order).contiguous()
        return x.view(n, 3, 2 * h, 2 * w)


@pytest.mark.parametrize(
    ("order", "split", "known"),
    [((0, 1, 4, 2, 5, 3), (3, 2, 2), True), ((0, 3, 4, 1, 5, 2), (2, 2, 3), False)],
)
def test_a_pixel_shuffle_by_views_is_recognised(order, split, known):
    net = Spelled(order, split)
    generator = lg.load(net, example_inputs=(1, 3, 16, 16))
    names = [str(n.target) for n in generator.program.graph.nodes]
    assert any("pixel_shuffle" in n for n in names) == known
    assert any("permute" in n for n in names) != known
    x = torch.randn(2, 3, 10, 14)
    with torch.no_grad():
        assert torch.allclose(generator(x), net(x), atol=1e-6)


class Seen(nn.Module):
    """Norms behind a picture that a linear layer makes, and behind a crop."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 2 * 3 * 4, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 6, 3, 2)
        self.last = nn.BatchNorm2d(6)

    def forward(self, x):
        y = torch.relu(self.norm(self.linear(x).view(-1, 2, 3, 4).permute(0, 3, 1, 2)))
        return self.last(self.up(y)[:, :, :-1, 1:])


def test_norms_are_folded_behind_views_and_crops():
    plain = make(shake(Seen()).eval(), 2, 5)
    folded = normalize(plain)
    assert not any("norm" in name for name in ops(folded))
    same(plain, folded, (1, 5), (3, 5))


class PadsToFour(nn.Module):
    """Pads to a multiple of 4 by what is left over, and crops again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        x = nn.functional.pad(x, (0, -wide % 4, 0, (4 - high % 4) % 4), "reflect")
        return self.conv(x)[:, :, :high, :wide]


def test_a_crop_stays_where_the_trace_had_nothing_to_crop() -> None:
    net = PadsToFour()
    loaded = lg.load(net, example_inputs=[torch.rand(1, 3, 64, 64)])
    for shape in ((1, 3, 64, 64), (2, 3, 37, 38), (1, 3, 41, 40)):
        x = torch.rand(shape)
        torch.testing.assert_close(loaded(x), net(x))
