"""Discriminators against their papers' own words, and from files as their authors write them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from leangan.architectures.hifigan_discriminator import (
    HIFIGAN_DISCRIMINATOR,
    PeriodDiscriminator,
    WaveformDiscriminator,
)
from leangan.architectures.stylegan2_discriminator import StyleGan2Discriminator
from leangan.sources.checkpoint import load_checkpoint


@pytest.mark.parametrize("length", [660, 661, 671])
def test_periods_are_the_columns_of_the_waveform(length):
    torch.manual_seed(0)
    judge = PeriodDiscriminator(11, 2)
    wave = torch.randn(2, 1, length)
    missing = -length % 11
    x = F.pad(wave, (0, missing), "reflect") if missing else wave
    x = x.view(2, 1, -1, 11)
    for conv in judge.convs:
        x = F.leaky_relu(conv(x), 0.1)
    assert torch.equal(judge(wave), judge.conv_post(x))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What it computes, and its file: weight and spectral normalization, two halves apart."""
    torch.manual_seed(0)
    judge = WaveformDiscriminator((2, 3), 2, 2, 16).eval()
    wave = torch.randn(1, 1, 900)
    for module in [*judge.modules()]:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            first = any(module is m for m in judge.msd.discriminators[0].modules())
            (spectral_norm if first else weight_norm)(module)
    judge.train()(wave)  # spectral normalization begins to know its slope
    judge.eval()
    file = tmp_path_factory.mktemp("file") / "do_00000010"
    torch.save(
        {"mpd": judge.mpd.state_dict(), "msd": judge.msd.state_dict(), "steps": 10, "optim_d": {}},
        file,
    )
    with torch.no_grad():
        return file, wave, judge(wave)


def test_a_vocoders_discriminators_are_read_from_one_file(written):
    file, wave, wanted = written
    judge, family, arguments, _ = load_checkpoint(file, part="discriminator")
    assert family is HIFIGAN_DISCRIMINATOR
    assert arguments == {"periods": (2, 3), "scales": 2, "period_width": 2, "scale_width": 16}
    with torch.no_grad():
        found = judge(wave)
    assert len(found) == len(wanted) == 4
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_what_all_pictures_share_is_seen():
    torch.manual_seed(0)
    judge = StyleGan2Discriminator(widths=(4, 8, 8)).eval()
    one, other = torch.randn(2, 1, 3, 16, 16)
    with torch.no_grad():
        alike, apart = judge(torch.cat([one, one])), judge(torch.cat([one, other]))
    assert torch.equal(alike[0], alike[1])
    assert not torch.allclose(apart[0], alike[0])


def test_deviations_are_kept_from_layer_to_layer():
    torch.manual_seed(0)
    judge = StyleGan2Discriminator(widths=(64, 64, 64, 64)).eval()
    noise = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        found = judge.convs[0](noise).square().mean().sqrt()
    assert float(found) == pytest.approx(1, abs=0.2)
