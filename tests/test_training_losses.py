"""Losses: 0 for equal outputs, more the further apart, and gradients that lead back."""

from __future__ import annotations

import math

import pytest
import torch

from leangan.errors import UsageError
from leangan.generator import Port
from leangan.measure.image import ssim as measured_ssim
from leangan.training import losses
from leangan.training.losses import LOSSES, Objective, read_losses, usual_losses
from leangan.training.losses.mel import mel_filters

PICTURE = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 48, 48), (-1.0, 1.0))
SOUND = Port("wave", "waveform", "NCT", (None, 1, None), (1, 1, 2048), (-1.0, 1.0))
SOUNDS = ("stft", "mel")
WITHOUT_NETWORK = [name for name in LOSSES if name not in ("perceptual", "style")]


def pair(name, noise=0.1):
    rng = torch.Generator().manual_seed(0)
    shape = (2, 1, 2048) if name in SOUNDS else (2, 3, 48, 48)
    wanted = torch.rand(shape, generator=rng) * 2 - 1
    return wanted + noise * torch.randn(shape, generator=rng), wanted


def port(name):
    return SOUND if name in SOUNDS else PICTURE


@pytest.mark.parametrize("name", WITHOUT_NETWORK)
def test_equal_outputs_cost_nothing_and_distance_costs(name):
    objective = Objective({name: 1.0}, port(name))
    made, wanted = pair(name)
    far, _ = pair(name, noise=0.3)
    nothing, near, more = (float(objective(x, wanted)[name]) for x in (wanted, made, far))
    assert nothing == pytest.approx(0, abs=1e-6)
    assert 0 < near < more


@pytest.mark.parametrize("name", WITHOUT_NETWORK)
def test_descent_comes_nearer(name):
    objective = Objective({name: 2.0}, port(name))
    made, wanted = pair(name)
    made.requires_grad_()
    before = objective(made, wanted)[name]
    before.backward()
    assert made.grad.isfinite().all()
    step = made.detach() - 0.01 * made.grad / made.grad.abs().max()
    assert float(objective(step, wanted)[name]) < float(before)


def test_ssim_is_that_of_the_measurements():
    made, wanted = ((x + 1) / 2 for x in pair("ssim"))
    objective = Objective({"ssim": 1.0}, Port(**{**vars(PICTURE), "range": (0.0, 1.0)}))
    assert float(objective(made, wanted)["ssim"]) == pytest.approx(
        1 - measured_ssim(made, wanted), abs=1e-6
    )


def test_pictures_are_compared_in_one_range_whatever_theirs():
    made, wanted = pair("l1")
    unit = Port(**{**vars(PICTURE), "range": (0.0, 1.0)})
    there = Objective({"l1": 1.0}, PICTURE)(made, wanted)["l1"]
    here = Objective({"l1": 1.0}, unit)((made + 1) / 2, (wanted + 1) / 2)["l1"]
    assert float(there) == pytest.approx(float(here), rel=1e-5)


def test_a_pyramid_minds_tones_more_than_grain():
    rng = torch.Generator().manual_seed(0)
    wanted = torch.rand(1, 3, 32, 32, generator=rng) * 2 - 1
    grain = torch.randn(wanted.shape, generator=rng).sign() * 0.1
    both = Objective({"pyramid": 1.0, "charbonnier": 1.0}, PICTURE)
    tone, noise = both(wanted + 0.1, wanted), both(wanted + grain, wanted)
    assert float(tone["charbonnier"]) == pytest.approx(float(noise["charbonnier"]), rel=1e-3)
    assert float(tone["pyramid"]) == pytest.approx(float(tone["charbonnier"]), rel=1e-3)
    assert float(noise["pyramid"]) < 0.55 * float(tone["pyramid"])


def test_wavelets_see_edges_and_not_what_is_flat():
    wanted = torch.rand(1, 3, 32, 32)
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::2] = 0.1
    objective = Objective({"wavelet": 1.0}, PICTURE)
    assert float(objective(wanted + 0.1, wanted)["wavelet"]) == pytest.approx(0, abs=1e-6)
    assert float(objective(wanted + stripes, wanted)["wavelet"]) > 1e-3


def test_mel_filters_are_those_of_librosa():
    filters = mel_filters(22_050, 1024, 80)
    for band, first, values in (  # librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80)
        (0, 1, (0.012760736, 0.023165587, 0.010404851)),
        (27, 53, (0.009242673, 0.018229717, 0.013497475)),
        (79, 490, (0.002149358, 0.002208119, 0.002102970)),
    ):
        found = filters[band, first : first + 3].tolist()
        assert found == pytest.approx(list(values), abs=1e-8)
    assert filters[0].count_nonzero() == 3


def test_half_as_loud_is_a_logarithm_apart_in_every_band():
    _, wanted = pair("mel")
    objective = Objective({"mel": 1.0}, SOUND)
    assert float(objective(wanted / 2, wanted)["mel"]) == pytest.approx(math.log(2), rel=1e-3)
    silence = torch.zeros_like(wanted)
    assert float(objective(silence, silence)["mel"]) == 0


def test_weights_are_read_and_wrong_ones_refused():
    assert read_losses("l1, perceptual=0.1") == {"l1": 1.0, "perceptual": 0.1}
    with pytest.raises(UsageError, match=r"perceptual=0\.1"):
        read_losses("l1=much")
    for weights, said in (
        ({}, "no loss"),
        ({"lpips": 1.0}, "choose from"),
        ({"l1": -1.0}, "above 0"),
        ({"l1": float("nan")}, "above 0"),
        ({"stft": 1.0}, "waveforms"),
        ({"mel": 1.0}, "waveforms"),
    ):
        with pytest.raises(UsageError, match=said):
            Objective(weights, PICTURE)
    with pytest.raises(UsageError, match="pictures"):
        Objective({"ssim": 1.0}, SOUND)


@pytest.mark.parametrize("one", [PICTURE, SOUND])
def test_what_is_usual_can_be_used(one):
    assert Objective(usual_losses(one), one)


def test_a_task_is_trained_without_a_network_that_cannot_be_fetched(monkeypatch):
    preferred = {"pyramid": 1.0, "perceptual": 0.1}
    monkeypatch.setattr(losses, "missing_network", lambda: None)
    assert usual_losses(PICTURE, preferred) == preferred
    monkeypatch.setattr(losses, "missing_network", lambda: "offline")
    assert usual_losses(PICTURE, preferred) == {"pyramid": 1.0}
