"""Small designs that learn from a teacher: what they compute, and that they learn it."""

from __future__ import annotations

import pytest
import torch
from task_nets import Smooth, image_generator, net_and_photos, voice_net

import leangan as lg
from leangan.architectures import try_recognise
from leangan.architectures.dcgan import DCGAN
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.istftnet import ISTFTNET, InverseStft
from leangan.architectures.mobile_stylegan import inverse_haar
from leangan.errors import LeanganError
from leangan.generator import Step
from leangan.search.students import make_student
from leangan.training.losses.pixel import l1
from leangan.training.losses.spectrum import stft
from leangan.training.student import Student


@pytest.mark.parametrize("points", [8, 16, 20])
def test_the_inverse_transform_is_that_of_torch(points):
    torch.manual_seed(0)
    bins = points // 2 + 1
    real, imaginary = torch.randn(2, 2, bins, 13)
    wanted = torch.istft(
        torch.complex(real, imaginary), points, points // 4, window=torch.hann_window(points)
    )
    found = InverseStft(points)(torch.cat([real, imaginary], 1))
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-5, rtol=1e-5)


def test_vocoders_are_told_apart_by_their_last_layer():
    arguments = {"width": 8, "rates": (4,), "up_kernels": (8,)}
    for family in (HIFIGAN, ISTFTNET):
        found = try_recognise(family.build(**arguments).state_dict())
        assert found is not None
        assert found[0] is family


def learned(spec, teacher, x, loss):
    """The student after a few steps on `x`, and what its loss was at each."""
    student = Student(make_student(spec, teacher, [], 0, lambda *_: None))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 5e-3)
    wanted, losses = teacher(x), []
    for _ in range(12):
        found = loss(student(x)[0], wanted)
        losses.append(float(found.detach()))
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    made = student.finished(Step("distill"))
    torch.testing.assert_close(made(x), student(x)[0].detach(), atol=1e-4, rtol=1e-4)
    return made, losses


def test_a_vocoder_of_spectra_learns_from_one_of_samples():
    spec = "istftnet:in_channels=4,width=8,rates=[2],up_kernels=[4],kernels=[3],dilations=[[1]]"
    made, losses = learned(spec, voice_net(), torch.randn(2, 4, 150), stft)
    assert made.signature.inputs[0].shape == (None, 4, None)
    assert losses[-1] < 0.9 * losses[0]


def test_a_unet_learns_pictures():
    teacher = image_generator(Smooth(), value_range=(-1.0, 1.0))
    made, losses = learned("small-unet:widths=[4,8]", teacher, torch.rand(2, 3, 32, 40) - 1, l1)
    assert made.signature.inputs[0].multiple == (1, 1, 2, 2)
    assert losses[-1] < 0.9 * losses[0]


def test_the_inverse_haar_transform_undoes_that_of_the_bands():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 12)
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    found = inverse_haar(torch.cat(bands, 1) / 2)
    torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-6)


def test_a_styled_student_learns_from_one_of_transposed_convolutions():
    torch.manual_seed(0)
    arguments = {"latent": 6, "widths": (8,), "channels": 3, "norm": "none"}
    z = torch.randn(4, 6, 1, 1)
    teacher = lg.load(DCGAN.build(**arguments).eval(), example_inputs=[z], task="synthesis")
    spec = "mobile-stylegan:latent=6,widths=[8],style=8,depth=1"
    made, losses = learned(spec, teacher, z, l1)
    assert made(z[:1]).shape == (1, 3, 8, 8)
    assert losses[-1] < 0.7 * losses[0]


def test_a_student_that_needs_other_sizes_is_refused_before_it_learns(tmp_path):
    photos = net_and_photos(tmp_path) / "photos"
    few = lg.TrainSettings(steps=2, batch=2, precision="fp32", examples=4)
    teacher, spec = image_generator(Smooth(), size=64), f"small-unet:widths={[2] * 6}"
    with pytest.raises(LeanganError, match="multiple of 32"):
        lg.distill(teacher, spec, photos, tmp_path / "run", settings=few, size=36)
