"""Large kernels as stacks of 3x3."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from leangan.generator import Generator, Step
from leangan.techniques.lighten.factorize import LARGE
from leangan.techniques.lighten.parts import Part, together
from leangan.techniques.lighten.split import Samples, check_share, split_layers

_SMALL = 3
_ROUNDS = 400


def stacked(generator: Generator, share: float, samples: Samples = ()) -> Generator:
    """Convolutions of 5x5, 7x7, 9x9... as two, three, four... of 3x3 that see as much.

    After VGG (Simonyan and Zisserman 2015) and Inception (Szegedy et al. 2016), with nothing
    between them. The small kernels are fitted to the large one by L-BFGS. Padding is done once,
    in front, so that borders are what they were.

    Args:
        generator: float.
        share: of the multiply-accumulates to leave at most of each such layer, between 0 and 1;
            the channels between follow from it.
        samples: inputs to fit the last of them to, see `split_layers`.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no square convolution of 5x5 or more that this would make cheaper.
    """
    check_share("stacked", share)

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        outs, ins, *kernel = weight.shape
        if len(kernel) != 2 or len(set(kernel)) > 1 or kernel[0] < LARGE or kernel[0] % 2 == 0:
            return None
        count = (kernel[0] - 1) // (_SMALL - 1)
        width = _width(ins, outs, count, share * weight.numel())
        if width < 1:
            return None
        return [Part(w) for w in _fit(weight, (ins, *(width,) * (count - 1), outs))]

    return split_layers(generator, split, Step("stacked", {"share": share}), samples, smallest=1)


def _width(ins: int, outs: int, count: int, most: float) -> int:
    """The channels between `count` kernels of 3x3 that have at most `most` weights together."""
    width = 0
    while True:
        more = width + 1
        if _SMALL**2 * more * (ins + outs + (count - 2) * more) > most:
            return width
        width = more


def _fit(weight: Tensor, widths: tuple[int, ...]) -> list[Tensor]:
    """Kernels whose composition is near to `weight`."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(b, a, _SMALL, _SMALL) for a, b in pairwise(widths)]
    wanted = weight.double()
    scale = wanted.norm()
    # Drawn so that the composition is about as large as what it has to become.
    start = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    gain = (scale / together([Part(k) for k in start]).norm()) ** (1 / len(start))
    with torch.enable_grad():
        kernels = [(k * gain).requires_grad_() for k in start]
        search = torch.optim.LBFGS(kernels, max_iter=_ROUNDS, line_search_fn="strong_wolfe")

        def error() -> Tensor:
            search.zero_grad()
            missed = ((together([Part(k) for k in kernels]) - wanted) / scale).square().sum()
            missed.backward()
            return missed

        search.step(error)
    return [k.detach().float() for k in kernels]
