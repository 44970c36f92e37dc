"""Complex numbers and Fourier transforms in forms that runtimes without them compute."""

import numpy as np
import pytest
import torch
from torch import nn

import leangan
from leangan.errors import LeanganError
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture, input_shapes
from leangan.graph.real_parts import complex_as_real
from leangan.graph.sizes import fix_sizes
from leangan.runtimes import get


class Calls(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def captured(function, *shape, free=(0, 2, 3)):
    free = [axis for axis in free if axis < len(shape)]
    sizes = tuple(None if a in free else s for a, s in enumerate(shape))
    layout = {3: "NCT", 4: "NCHW"}[len(shape)]
    module = function if isinstance(function, nn.Module) else Calls(function)
    program = capture(module, (torch.randn(shape),), [free])
    return Generator(program, Signature((Port("x", None, layout, sizes, shape),), ()))


def has_complex(generator):
    values = (n.meta.get("val") for n in generator.program.graph.nodes)
    return any(isinstance(v, torch.Tensor) and v.is_complex() for v in values)


def check(function, *shapes, **settings):
    """It has no complex tensor any more and computes the same at all sizes."""
    generator = captured(function, *shapes[0], **settings)
    real = complex_as_real(generator)
    assert has_complex(generator)
    assert not has_complex(real)
    assert input_shapes(real.program) == input_shapes(generator.program)
    for shape in shapes:
        x = torch.randn(shape)
        expected = function(x)
        torch.testing.assert_close(real(x), expected, rtol=1e-4, atol=1e-4)


SIZES = ((2, 3, 6, 10), (3, 3, 7, 9))


def parts(z):
    return torch.view_as_real(z).flatten(1)


def test_transforms_and_inverses():
    def transforms(x):
        half = torch.fft.rfftn(x, dim=(2, 3), norm="ortho")
        whole = torch.fft.ifft(torch.fft.fft(half, dim=1, norm="forward"), norm="forward")
        again = torch.fft.irfft2(half.abs() * half, s=x.shape[2:], norm="backward")
        return torch.cat([parts(whole), again.flatten(1)], 1)

    check(transforms, *SIZES)


def test_known_lengths():
    def known(x):
        z = torch.fft.rfft2(x, norm="ortho")
        return torch.fft.irfftn(z * 1j, s=(7, 9), dim=(2, 3)) + torch.fft.irfft2(z, s=(7, 9))

    check(known, (2, 3, 7, 9), free=(0,))


def test_arithmetic():
    def arithmetic(x):
        z = torch.complex(x, x.sin())
        y = torch.polar(x.abs(), x) + x * 1j
        z = torch.stack([z * y - 2, z.conj() / 2j, (z - x) / x.exp(), -y], 1)[:, 1:]
        z = z.transpose(-1, -2).flatten(2) * torch.exp(1j * x).mean((1, 2, 3))[:, None, None]
        return torch.cat([z.real, z.imag, z.abs(), z.angle().cos()], 1)

    check(arithmetic, *SIZES)


def test_stored_spectrum_filters():
    class Filter(nn.Module):
        """As in global filter networks: its spectrum is learned."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6, 6, 2))

        def forward(self, x):
            spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.weight)
            return torch.fft.irfft2(spectrum, s=(6, 10), norm="ortho")

    with torch.no_grad():
        check(Filter(), (2, 3, 6, 10), free=(0,))


def test_unknown_operators_are_named():
    generator = captured(lambda x: torch.fft.rfft(x).pow(3).abs(), *SIZES[0])
    with pytest.raises(LeanganError, match=r"pow.*complex numbers"):
        complex_as_real(generator)


def test_without_complex_numbers_nothing_changes():
    generator = captured(torch.tanh, *SIZES[0])
    assert complex_as_real(generator) is generator


@pytest.mark.parametrize(
    "settings",
    [
        {"hop_length": 5, "normalized": True},
        {"win_length": 9, "window": True, "length": 20},
    ],
)
def test_istft_as_transposed_convolution(settings):
    settings, n_fft = dict(settings), 12
    if settings.pop("window", False):
        settings["window"] = torch.hamming_window(settings.get("win_length", n_fft))

    def vocoder(x):
        size, angle = x.chunk(2, 1)
        return torch.istft(torch.polar(size.exp(), angle), n_fft, **settings)

    bins = n_fft // 2 + 1
    check(vocoder, (2, 2 * bins, 9), (1, 2 * bins, 14), free=(0, 2))


class Fourier(nn.Module):
    """The spectral block of LaMa."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.turn = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.into(x).relu()
        n, _, h, w = x.shape
        z = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho")
        z = torch.stack((z.real, z.imag), -1).permute(0, 1, 4, 2, 3).contiguous()
        z = self.turn(z.view(n, -1, *z.shape[3:])).relu()
        z = z.view(n, -1, 2, *z.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
        z = torch.view_as_complex(z)
        return self.out(x + torch.fft.irfftn(z, s=(h, w), dim=(-2, -1), norm="ortho")).tanh()


class Vocoder(nn.Module):
    """The head of iSTFTNet."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(8, 18, 8, 4, 2)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x):
        x = self.up(x)
        z = torch.exp(x[:, :9]) * torch.exp(torch.sin(x[:, 9:]) * 1j)
        return torch.istft(z, 16, 4, 16, window=self.window).unsqueeze(1)


@pytest.mark.parametrize(
    ("network", "runtime", "shapes"),
    [
        (Fourier, "openvino", ((1, 3, 16, 24), (2, 3, 17, 15), (1, 3, 40, 31))),
        (Vocoder, "onnxruntime", ((1, 8, 20), (2, 8, 13), (1, 8, 50))),
    ],
)
def test_runtimes(network, runtime, shapes, tmp_path):
    module = network().eval()
    generator = leangan.load(module, example_inputs=[torch.randn(shapes[0])])
    assert [axis for axis, size in enumerate(generator.signature.inputs[0].shape) if not size] == [
        axis for axis in range(len(shapes[0])) if axis != 1
    ]
    artifact = get(runtime).build(generator, tmp_path / "built", "fp32")
    session = get(runtime).open(artifact, 1)
    for shape in shapes:
        same_numbers(module, session, shape)


def same_numbers(module, session, shape):
    x = torch.randn(shape)
    with torch.no_grad():
        expected = module(x).numpy()
    (found,) = session.run([x.numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def at_one_size(network, shape):
    module = network().eval()
    return module, fix_sizes(leangan.load(module, example_inputs=[torch.randn(shape)]))


NETWORKS = pytest.mark.parametrize(
    ("network", "shape"), [(Fourier, (1, 3, 16, 24)), (Vocoder, (1, 8, 20))]
)


@NETWORKS
@pytest.mark.parametrize("runtime", ["litert", "executorch", "ncnn"])
def test_runtimes_at_one_size(network, runtime, shape, tmp_path):
    if missing := get(runtime).missing():
        pytest.skip(missing)
    module, generator = at_one_size(network, shape)
    artifact = get(runtime).build(generator, tmp_path / "built", "fp32")
    same_numbers(module, get(runtime).open(artifact, 1), shape)


@NETWORKS
def test_core_ml(network, shape, tmp_path):
    pytest.importorskip("coremltools")
    from mil_reference import run

    module, generator = at_one_size(network, shape)
    artifact = get("coreml").build(generator, tmp_path / "built", "fp32")
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(run(artifact.path, {"x": x})[0], module(x), rtol=0, atol=1e-5)


def test_ncnn_names_what_computes_free_transforms(tmp_path):
    if missing := get("ncnn").missing():
        pytest.skip(missing)
    generator = leangan.load(Fourier().eval(), example_inputs=[torch.randn(1, 3, 16, 24)])
    with pytest.raises(LeanganError, match=r"sizes that are free.*litert"):
        get("ncnn").build(generator, tmp_path / "built", "fp32")
