"""Live modules: free sizes, found multiples, typed ports, and what is refused."""

import pytest
import torch
from torch import nn

from leangan.cli.inspect import hazards
from leangan.errors import LeanganError, UsageError
from leangan.generator import Port
from leangan.sources import agreement
from leangan.sources.module import from_module


class UNet(nn.Module):
    """Halves `depth` times and doubles back, with skips."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 4, 2, 1) for i in range(depth))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(4 if i == depth - 1 else 8, 3 if i == 0 else 4, 4, 2, 1)
            for i in range(depth)
        )

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        maps = []
        for down in self.down:
            photo = torch.relu(down(photo))
            maps.append(photo)
        y = self.up[-1](maps[-1])
        for i in range(len(self.up) - 2, -1, -1):
            y = self.up[i](torch.cat([y, maps[i]], 1))
        return torch.tanh(y)


class Unshuffle(nn.Module):
    """As Real-ESRGAN x2: to half size first, then to four times that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 48, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.conv(nn.functional.pixel_unshuffle(x, 2)), 4)


def ladder() -> nn.Module:
    """Down twice and up twice by output_padding: runs at any size, but rounds it up to 4."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1),
        nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
    )


@pytest.mark.parametrize(
    ("module", "size", "multiple"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), 32, 1),
        (nn.Conv2d(3, 3, 9), 32, 1),
        (nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), 32, 1),
        (nn.Conv2d(3, 3, 3, 2, 1), 32, 2),
        (Unshuffle(), 32, 2),
        (ladder(), 64, 4),
        (UNet(3), 64, 8),
        (UNet(5), 64, 32),
    ],
)
def test_the_size_multiple_is_found(module: nn.Module, size: int, multiple: int) -> None:
    generator = from_module(module, [torch.randn(1, 3, size, size)])
    (port,) = generator.signature.inputs
    assert port.shape == (None, 3, None, None)
    assert port.multiple == (1, 1, multiple, multiple)
    assert port.typical == (1, 3, size, size)


def test_smallest_size_is_recorded() -> None:
    generator = from_module(nn.Conv2d(3, 3, 9), [torch.randn(1, 3, 32, 32)])
    assert generator.history[0].measured["minimum"] == 9


def test_names_kinds_and_ranges_are_read_not_guessed() -> None:
    generator = from_module(UNet(2), [torch.randn(1, 3, 32, 32)])
    (photo,), (output,) = generator.signature.inputs, generator.signature.outputs
    assert (photo.name, photo.kind, photo.range) == ("photo", "image", None)
    assert (output.name, output.kind, output.range) == ("output", "image", (-1.0, 1.0))
    assert generator.task is None
    latent = from_module(nn.Linear(5, 4), [torch.randn(2, 5)])
    assert latent.signature.inputs[0].kind is None
    assert latent.signature.outputs[0].range is None


class Scaled(nn.Module):
    def __init__(self, last: str) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last == "tanh":
            return (torch.tanh(x) + 1) / 2
        if self.last == "sigmoid":
            return torch.sigmoid(x) * 255
        if self.last == "clamp":
            return x.clamp(-0.5, 0.5)
        return torch.tanh(x) + x


@pytest.mark.parametrize(
    ("last", "expected"),
    [("tanh", (0.0, 1.0)), ("sigmoid", (0.0, 255.0)), ("clamp", (-0.5, 0.5)), ("residual", None)],
)
def test_output_range_follows_the_last_operators(last: str, expected: object) -> None:
    generator = from_module(Scaled(last), [torch.randn(1, 3, 32, 32)])
    assert generator.signature.outputs[0].range == expected


def test_the_user_has_the_last_word() -> None:
    generator = from_module(
        UNet(2),
        [torch.randn(1, 3, 32, 32)],
        task="translation",
        kinds={"photo": "mask"},
        ranges={"photo": (0, 255), "output": (0, 1)},
    )
    (photo,), (output,) = generator.signature.inputs, generator.signature.outputs
    assert (photo.kind, photo.range, output.range) == ("mask", (0.0, 255.0), (0.0, 1.0))
    assert generator.task == "translation"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"kinds": {"foto": "image"}}, "'foto'; there are photo, output"),
        ({"kinds": {"photo": "picture"}}, "'picture' is no kind"),
        ({"ranges": {"photo": (1, -1)}}, "is empty"),
    ],
)
def test_wrong_statements_are_refused(said: dict, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        from_module(UNet(2), [torch.randn(1, 3, 32, 32)], **said)


def test_modes_and_weights_are_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout())
    module.train()
    module[1].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    from_module(module, [torch.randn(2, 3, 32, 32)])
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


class Merging(nn.Module):
    """As SPAN's blocks in eval: the kernels' sum is written over at every run."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.skip = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.eval_conv = nn.Conv2d(3, 3, 3, padding=1)

    def update_params(self) -> None:
        small = nn.functional.pad(self.skip.weight.data.clone(), (1, 1, 1, 1))
        self.eval_conv.weight.data = self.wide.weight.data.clone() + small
        self.eval_conv.bias.data = self.wide.bias.data + self.skip.bias.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.update_params()
        return self.eval_conv(x)


def test_kernels_that_are_merged_at_every_run_are_merged_once() -> None:
    torch.manual_seed(0)
    net, x = Merging(), torch.randn(1, 3, 20, 24)
    made = from_module(net, (x,))
    wanted = net.wide(x) + net.skip(x)
    torch.testing.assert_close(made(x), wanted)
    net.skip.weight.data.zero_()  # the module itself goes on merging
    assert not torch.allclose(net(x), wanted)


def test_half_precision_weights_become_float() -> None:
    module = nn.Conv2d(3, 3, 3, padding=1).half()
    generator = from_module(module, [torch.randn(1, 3, 32, 32)])
    assert generator(torch.randn(1, 3, 16, 20)).dtype == torch.float32
    assert module.weight.dtype == torch.float16


class FixedHead(nn.Module):
    """Works at 16x16 only, as many view-based heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def test_axes_that_cannot_vary_are_fixed_and_recorded() -> None:
    generator = from_module(FixedHead(), [torch.randn(1, 3, 16, 16)])
    assert generator.signature.inputs[0].shape == (None, 3, 16, 16)
    assert generator.history[0].measured["fixed_axes"] == ["x.H", "x.W"]
    assert generator(torch.randn(5, 3, 16, 16)).shape == (5, 10)


def test_a_latent_of_one_pixel_keeps_it() -> None:
    module = nn.ConvTranspose2d(8, 3, 4)
    generator = from_module(module, [torch.randn(1, 8, 1, 1)])
    assert generator.signature.inputs[0].shape == (None, 8, 1, 1)


def test_two_inputs_share_a_size_and_two_outputs_get_names() -> None:
    class Pair(nn.Module):
        def forward(self, low: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return low * mask, low.mean((2, 3))

    generator = from_module(Pair(), [torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)])
    assert [p.name for p in generator.signature.inputs] == ["low", "mask"]
    assert [p.layout for p in generator.signature.inputs] == ["NCHW", "NCHW"]
    assert [p.name for p in generator.signature.outputs] == ["output_0", "output_1"]
    a, b = generator(torch.ones(2, 3, 9, 7), torch.zeros(2, 1, 9, 7))
    assert a.abs().max() == 0
    assert b.shape == (2, 3)


def test_known_ports_need_no_example() -> None:
    port = Port("x", "image", "NCHW", (None, 3, None, None), (1, 3, 64, 64), (-1.0, 1.0))
    out = Port("y", "image", "NCHW", (None, 3, None, None), (1, 3, 1, 1))
    generator = from_module(ladder(), inputs=[port], outputs=[out])
    assert generator.signature.inputs[0].multiple == (1, 1, 4, 4)
    assert generator.signature.outputs[0].typical == (1, 3, 64, 64)


class OneAtATime(nn.Module):
    """A map of the noise for one picture, put beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        noise = torch.full((1, 1, *image.shape[2:]), 0.1)
        return self.conv(torch.cat([image, noise], 1))


PHOTO = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 96, 96), (0.0, 1.0))


@pytest.mark.parametrize(
    "known", [{"inputs": [PHOTO]}, {"example_inputs": [torch.rand(1, 3, 24, 24)]}]
)
def test_code_for_one_picture_at_a_time_keeps_free_sizes(known: dict) -> None:
    net = OneAtATime()
    generator = from_module(net, **known)
    assert generator.signature.inputs[0].shape == (1, 3, None, None)
    x = torch.rand(1, 3, 20, 31)
    assert torch.equal(generator(x), net(x))


def test_known_ports_of_a_network_that_needs_large_pictures() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.ReflectionPad2d(40), nn.Conv2d(3, 3, 81))
    generator = from_module(net, inputs=[PHOTO])
    assert generator.signature.inputs[0].shape == (None, 3, None, None)
    assert generator(torch.rand(2, 3, 60, 80)).shape == (2, 3, 60, 80)


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.bernoulli(torch.full_like(x, 0.5))


class Noisy(nn.Module):
    """Noise between the layers, as in StyleGAN2, in all the ways that it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.up = nn.Linear(8, 48), nn.ConvTranspose2d(3, 3, 4, 2, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        n = z.shape[0]
        x = self.into(z + 0.1 * torch.randn_like(z)).view(-1, 3, 4, 4) + torch.rand(n, 1, 4, 4)
        x = self.up(x)
        x = x + x.new_empty(n, 1, 8, 8).normal_(0.5, 0.1) + torch.empty(8, 8).uniform_(-1, 3)
        return x + torch.randn((n, 1, 8, 8))


def test_noise_is_drawn_once() -> None:
    net = Noisy()
    generator = from_module(net, [torch.randn(1, 8)])
    assert generator.signature.inputs[0].shape == (None, 8)
    assert generator.history[-1].measured["drawn_once"]
    z = torch.randn(1, 8)
    first, second = generator(z.expand(2, 8))
    assert torch.equal(first, second)
    assert torch.allclose(first, generator(z)[0], atol=1e-5)
    # The module draws anew, and on average what the graph has is one of its draws.
    draws = torch.stack([net(z)[0] for _ in range(2000)])
    apart = (first - draws.mean(0)) / draws.std(0)
    assert not torch.equal(draws[0], draws[1])
    assert apart.abs().max() < 5
    assert 0.5 < apart.square().mean() < 1.5
    assert any("drawn once" in hazard for hazard in hazards(generator, None))


def test_noise_as_large_as_the_picture_fixes_its_size() -> None:
    class Grain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x)

    generator = from_module(Grain(), [torch.zeros(1, 3, 24, 32)])
    assert generator.signature.inputs[0].shape == (None, 3, 24, 32)
    assert generator(torch.zeros(1, 3, 24, 32)).std() > 0.9


def test_elements_picked_by_their_values_are_refused_in_a_sentence() -> None:
    class Picked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.zeros_like(x)
            y[x > 0] = (2 * x)[x > 0]
            return y

    with pytest.raises(LeanganError, match=r"torch.where in place of tensor\[mask\]"):
        from_module(Picked(), [torch.randn(1, 3, 24, 32)])


class SizeBaked(nn.Module):
    """Makes a tensor of the size, which an export may take for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(x.shape[2] / 10.0)


class Dictionary(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": x}


@pytest.mark.parametrize(
    ("module", "error"),
    [
        (Random(), "does not compute"),
        (Dictionary(), "returns dict"),
        (nn.Conv2d(4, 3, 3), "does not run on inputs of shape"),
    ],
)
def test_modules_that_cannot_be_believed_are_refused(module: nn.Module, error: str) -> None:
    with pytest.raises(LeanganError, match=error):
        from_module(module, [torch.randn(1, 3, 32, 32)])


def test_one_run_that_adds_up_in_another_order_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true, disturbed = agreement.share_of_range, [4e-5]
    monkeypatch.setattr(
        agreement, "share_of_range", lambda *two: disturbed.pop() if disturbed else true(*two)
    )
    generator = from_module(nn.Conv2d(3, 3, 3, padding=1), [torch.randn(1, 3, 16, 20)])
    assert not disturbed
    assert generator.history[-1].measured["largest_difference"] < 1e-5


class EvenOnly(nn.Module):
    """Pads to an even size and crops again, where code asks whether it has to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = x.shape[2:]
        more = (-wide % 2, -high % 2)
        y = self.conv(nn.functional.pad(x, (18, 18 + more[0], 18, 18 + more[1]), "reflect"))
        if more != (0, 0):
            y = y[..., : high + 36, : wide + 36]
        return y[..., 18:-18, 18:-18]


class SharesPooled(nn.Module):
    """Adds the largest of each quarter of a quarter, as SAFMN does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = x.shape[2:]
        small = nn.functional.adaptive_max_pool2d(x, (high // 4, wide // 4))
        return x + nn.functional.interpolate(small, size=(high, wide))


@pytest.mark.parametrize(("module", "multiple"), [(EvenOnly(), 2), (SharesPooled(), 4)])
def test_code_that_asks_about_sizes_is_right_at_multiples(module: nn.Module, multiple: int) -> None:
    for example in (None, [torch.randn(1, 3, 33, 35)]):
        ports = [Port("x", "image", "NCHW", (None, 3, None, None), (1, 3, 64, 64), (0.0, 1.0))]
        made = from_module(module, example, inputs=None if example else ports)
        port = made.signature.inputs[0]
        assert port.multiple == (1, 1, multiple, multiple)
        assert all(n % multiple == 0 for n in port.typical[2:])
        for high, wide in ((24, 40), (64, 44)):
            x = torch.randn(2, 3, high, wide)
            torch.testing.assert_close(made(x), module(x))


def test_a_scale_made_of_the_size_is_fixed_or_right() -> None:
    generator = from_module(SizeBaked(), [torch.randn(1, 3, 20, 30)])
    height = generator.signature.inputs[0].shape[2] or 13
    x = torch.randn(1, 3, height, 30)
    torch.testing.assert_close(generator(x), SizeBaked()(x))


def test_examples_are_asked_for() -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        from_module(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="float tensors"):
        from_module(nn.Embedding(3, 3), [torch.zeros(1, 2, dtype=torch.int64)])
