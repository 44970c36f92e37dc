"""Small designs that learn from a teacher: what they compute, and that they learn it."""

from __future__ import annotations

import pytest
import torch
from task_nets import voice_net

from leangan.architectures import try_recognise
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.istftnet import ISTFTNET, InverseStft
from leangan.generator import Step
from leangan.search.students import make_student
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


def test_a_vocoder_of_spectra_learns_from_one_of_samples():
    teacher = voice_net()
    spec = "istftnet:in_channels=4,width=8,rates=[2],up_kernels=[4],kernels=[3],dilations=[[1]]"
    made = make_student(spec, teacher, [], 0, lambda *_: None)
    assert made.signature.inputs[0].shape == (None, 4, None)
    student = Student(made)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 5e-3)
    x = torch.randn(2, 4, 150)
    wanted, losses = teacher(x), []
    for _ in range(12):
        loss = stft(student(x)[0], wanted)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    learned = student.finished(Step("distill"))
    torch.testing.assert_close(learned(x), student(x)[0].detach(), atol=1e-4, rtol=1e-4)
