"""Image and signal metrics against values known from elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import leangan.zoo
from leangan.errors import LeanganError
from leangan.measure import perceptual
from leangan.measure.image import mean_shift, psnr, psnr_y, rgb_to_y, ssim
from leangan.measure.signal import snr


def picture(seed, height=24, width=31, channels=3):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((1, channels, height, width), dtype=np.float32))


def ssim_by_hand(a, b):
    """Wang et al. 2004 with loops in float64, one channel."""
    steps = np.arange(11) - 5
    window = np.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            pq = (window * (p - mp) * (q - mq)).sum()
            top = (2 * mp * mq + 0.01**2) * (2 * pq + 0.03**2)
            values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return np.mean(values)


def test_psnr_of_a_known_error():
    a = torch.zeros(1, 3, 8, 8)
    assert psnr(a, a + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(a, a + 25.5, peak=255.0) == pytest.approx(20, abs=1e-4)


def test_equal_pictures_get_the_cap_and_broken_ones_the_floor():
    a = picture(0)
    assert psnr(a, a) == 100
    assert psnr(a, a + 1e-6) == 100
    broken = a.clone()
    broken[0, 0, 0, 0] = math.nan
    assert psnr(a, broken) == -100
    assert ssim(a, broken) == -1
    assert mean_shift(a, broken) == 255
    assert snr(a, broken) == -100


@pytest.mark.parametrize("metric", [psnr, ssim, mean_shift, lambda a, b: psnr_y(a, b, 1)])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="shapes differ"):
        metric(picture(0), picture(0)[:, :1])


def test_ssim_is_that_of_the_paper():
    a = picture(1, channels=2)
    b = (0.7 * a + 0.3 * picture(2, channels=2)).clamp(0, 1)
    by_hand = [ssim_by_hand(a[0, c].double().numpy(), b[0, c].double().numpy()) for c in range(2)]
    assert ssim(a, b) == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)


def test_ssim_of_pictures_under_eleven_pixels():
    a = picture(1, height=6, width=9)
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)
    assert ssim(a, 1 - a) < 0.5


def test_luma_of_black_white_and_the_primaries():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).float()
    levels = rgb_to_y(colours[:, :, None, None]).flatten() * 255
    # ITU-R BT.601: 16 to 235; red 81, green 145, blue 41.
    assert levels.round().tolist() == [16, 235, 81, 145, 41]


def test_psnr_y_leaves_the_border_out():
    a = picture(3)
    b = a.clone()
    b[..., 0] = 1 - b[..., 0]
    assert psnr_y(a, b, 1) == 100
    assert psnr_y(a, b, 0) < 40
    with pytest.raises(ValueError, match="border"):
        psnr_y(a, b, 12)


def test_psnr_y_sees_luma_only():
    grey = torch.full((1, 3, 16, 16), 0.5)
    tinted = grey.clone()
    tinted[:, 0] += 0.1
    tinted[:, 1] -= 0.1 * 65.481 / 128.553
    assert psnr(grey, tinted) < 30
    assert psnr_y(grey, tinted, 2) > 90
    assert psnr_y(grey[:, :1], grey[:, :1] + 0.1, 2) == pytest.approx(20, abs=1e-3)


def test_mean_shift_finds_the_tinted_channel():
    a = picture(4)
    b = a.clone()
    b[:, 2] -= 2 / 255
    assert mean_shift(a, b) == pytest.approx(2, abs=1e-3)


def test_snr():
    a = torch.sin(torch.arange(1000.0))
    assert snr(a, a * 1.01) == pytest.approx(40, abs=1e-3)
    assert snr(a, a) == 100
    assert snr(torch.zeros(5), torch.zeros(5)) == 100
    assert snr(torch.zeros(5), torch.ones(5)) == -100


class Net(nn.Module):
    """Two layers that need 33 pixels, as the real one does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 9, 4)
        self.b = nn.Conv2d(8, 8, 3, 2)

    def forward(self, x):
        one = torch.relu(self.a(x))
        return [one, torch.relu(self.b(one))]


def test_perceptual_distance():
    net, a = Net(), picture(5, 48, 40)
    blurred = nn.functional.avg_pool2d(a, 3, 1, 1)
    near, far = (perceptual.perceptual_distance(a, b, net) for b in (0.9 * a + 0.05, blurred))
    assert perceptual.perceptual_distance(a, a, net) == 0
    assert 0 < near < far < 2
    assert perceptual.perceptual_distance(a, a * math.nan, net) == 2


def test_perceptual_distance_by_hand():
    a, b = torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40)

    def features(x):  # (3, 4) against (0, 5) in the first layer, equal in the second
        one = x[:, :1]
        return [torch.cat([3 - 3 * one, 4 + one], 1), torch.ones_like(one)]

    # Unit vectors (0.6, 0.8) and (0, 1): 0.36 + 0.04, averaged over two layers.
    assert perceptual.perceptual_distance(a, b, features) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_and_grey_pictures_are_fitted_to_the_network(channels):
    a = picture(6, 12, 16, channels)
    assert perceptual.perceptual_distance(a, 1 - a, Net()) > 0


@pytest.fixture
def zoo(monkeypatch):
    """Says what the zoo does when it is asked for a network."""
    perceptual._load.cache_clear()
    yield lambda load: monkeypatch.setattr(leangan.zoo, "load_features", load)
    perceptual._load.cache_clear()


def test_without_the_network_there_is_a_note(zoo):
    def unreachable(name):
        raise LeanganError("No route to the package index.")

    zoo(unreachable)
    assert perceptual.load_network() is None
    assert "No route" in perceptual.missing()


def test_the_network_is_loaded_once(zoo):
    calls = []

    def load(name):
        calls.append(name)
        return Net()

    zoo(load)
    assert perceptual.load_network() is perceptual.load_network()
    assert perceptual.missing() is None
    assert calls == [perceptual.NETWORK]
