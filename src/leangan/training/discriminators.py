"""Networks that judge pictures while a generator is trained; they are thrown away afterwards."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class SpectralDiscriminator(nn.Module):
    """Picture (N, channels, H, W) to one score: SNGAN's idea of a DCGAN discriminator.

    Miyato et al. 2018: spectral normalization keeps its slope bounded, so that it cannot run away
    from the generator.

    Args:
        channels: of the picture.
        side: of the picture, in pixels.
        width: channels of the first layer; each further one has twice as many, 8 times at most.
    """

    def __init__(self, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        wide = width
        before = channels
        while side > 4:
            layers += [spectral_norm(nn.Conv2d(before, wide, 4, 2, 1)), nn.LeakyReLU(0.2)]
            before, wide, side = wide, min(2 * wide, 8 * width), side // 2
        layers += [nn.Flatten(), spectral_norm(nn.Linear(before * side * side, 1))]
        self.layers = nn.Sequential(*layers)

    def forward(self, picture: Tensor) -> Tensor:
        """Scores (N, 1), higher for what looks real."""
        scores: Tensor = self.layers(picture)
        return scores
