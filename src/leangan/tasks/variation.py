"""Pictures in other tones and colours: many to learn from, where there are few photos."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from leangan.tasks.images import LUMA

_AS_IT_IS = 0.3
"""Share of pictures that are left alone."""
_SWAPPED = 0.2
"""Share of those that are not whose channels change places."""


def vary(rgb: Tensor, seed: int) -> Tensor:
    """The picture in another white balance, gamma, contrast, brightness and saturation.

    As photographers and films differ; now and then the colours change places. The usual colour
    augmentation (Howard 2013), milder than it makes shapes hard to see.

    Args:
        rgb: (3, H, W) in [0, 1].
        seed: of what is done; three in ten pictures are left as they are.

    Returns:
        The same shape, in [0, 1].
    """
    rng = random.Random(seed)
    if rng.random() < _AS_IT_IS:
        return rgb
    gains = torch.tensor([rng.uniform(0.8, 1.2) for _ in range(3)])
    rgb = (rgb * gains[:, None, None]).clamp(0, 1) ** (2 ** rng.uniform(-0.7, 0.7))
    middle = rgb.mean()
    rgb = (rgb - middle) * rng.uniform(0.6, 1.3) + middle + rng.uniform(-0.1, 0.1)
    grey = (rgb * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    rgb = grey + (rgb - grey) * rng.uniform(0.3, 1.4)
    if rng.random() < _SWAPPED:
        rgb = rgb[rng.sample(range(3), 3)]
    return rgb.clamp(0, 1)
