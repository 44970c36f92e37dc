"""One convolution as several that cost less together, from the closest factors of its kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leangan.generator import Generator, Step
from leangan.techniques.lighten.parts import Part
from leangan.techniques.lighten.split import Samples, check_share, split_layers

LARGE = 5
"""Kernels of this side or more are worth several smaller ones."""


def low_rank(generator: Generator, share: float, samples: Samples = ()) -> Generator:
    """Convolutions as a narrow one and a 1x1 one behind it, by truncated SVD.

    W (out, in, k, k) ~ V (out, r, 1, 1) U (r, in, k, k), with the r that leaves `share` of the
    layer's multiply-accumulates (Zhang et al. 2016, "Accelerating Very Deep Convolutional
    Networks"). The two are the best of their rank for what the layer reads.

    Args:
        generator: float.
        share: between 0 and 1.
        samples: inputs to fit to, see `split_layers`.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """
    check_share("low_rank", share)

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        outs, ins, *kernel = weight.shape
        rank = int(share * weight.numel() / (ins * math.prod(kernel) + outs))
        if rank < 1 or rank >= min(outs, ins * math.prod(kernel)):
            return None
        left, right = _factors(weight.flatten(1), moments, rank)
        return [Part(right.reshape(rank, ins, *kernel)), Part(_pointwise(left, weight))]

    return split_layers(generator, split, Step("low_rank", {"share": share}), samples)


def tucker(generator: Generator, share: float, samples: Samples = ()) -> Generator:
    """Convolutions as a 1x1 one, a narrow one and a 1x1 one, by a Tucker-2 decomposition.

    W (out, in, k, k) ~ A (out, s, 1, 1) C (s, r, k, k) B (r, in, 1, 1), with r and s the same
    share of the channels on their side (Kim et al. 2016, "Compression of Deep Convolutional
    Neural Networks for Fast and Low Power Mobile Applications"). The r are those
    that the kernel reads most of; what follows them is the best of its rank.

    Args:
        generator: float.
        share: of the multiply-accumulates to leave of each such layer, between 0 and 1.
        samples: inputs to fit to, see `split_layers`.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """
    check_share("tucker", share)

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        outs, ins, *kernel = weight.shape
        taps = math.prod(kernel)
        # in * r + r * s * k * k + s * out at r = x * in, s = x * out
        a, b, c = outs * ins * taps, ins**2 + outs**2, -share * weight.numel()
        x = (math.sqrt(b**2 - 4 * a * c) - b) / (2 * a)
        r, s = int(x * ins), int(x * outs)
        if taps == 1 or min(r, s) < 1:
            return None
        whole = weight.double().flatten(2)
        second = moments.reshape(ins, taps, ins, taps)
        root = torch.linalg.cholesky(torch.einsum("itjt->ij", second))
        turned = torch.einsum("oit,ij->jot", whole, root).flatten(1)
        basis = torch.linalg.eigh(turned @ turned.T)[1][:, -r:]
        enter = torch.linalg.solve_triangular(root.T, basis, upper=True).T  # (r, in)
        # What is left is a kernel that reads these r channels: its best, then that of its rank.
        inner = torch.einsum("ri,itju,sj->rtsu", enter, second, enter).reshape(r * taps, -1)
        read = torch.einsum("oit,itju,rj->ruo", whole, second, enter).flatten(0, 1)
        left, core = _factors(torch.linalg.solve(inner, read).T, inner, s)
        return [
            Part(_pointwise(enter.float(), weight)),
            Part(core.reshape(-1, r, *kernel)),
            Part(_pointwise(left, weight)),
        ]

    return split_layers(generator, split, Step("tucker", {"share": share}), samples)


def spatial(generator: Generator, share: float, samples: Samples = ()) -> Generator:
    """Large convolutions as one of a column of the kernel and one of a row, by truncated SVD.

    W (out, in, k, l) ~ H (out, r, 1, l) V (r, in, k, 1): two kernels of 9x1 and 1x9 see what one
    of 9x9 sees (Jaderberg, Vedaldi, Zisserman 2014). Those that enter and leave the picture are
    split too, which are the large ones in most generators.

    Args:
        generator: float.
        share: of the multiply-accumulates to leave of each such layer, between 0 and 1.
        samples: inputs to fit to, see `split_layers`.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution of 5x5 or more that this would make cheaper.
    """
    check_share("spatial", share)

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        outs, ins, *kernel = weight.shape
        if len(kernel) != 2 or min(kernel) < LARGE:
            return None
        rows, columns = ins * kernel[0], outs * kernel[1]
        rank = int(share * weight.numel() / (rows + columns))
        if rank < 1 or rank >= min(rows, columns):
            return None
        flat = weight.permute(1, 2, 0, 3).reshape(rows, columns)
        left, right = _factors(flat, torch.eye(columns, dtype=torch.float64), rank)
        first = left.T.reshape(rank, ins, kernel[0], 1)
        second = right.reshape(rank, outs, 1, kernel[1]).transpose(0, 1)
        return [Part(first.contiguous()), Part(second.contiguous())]

    return split_layers(generator, split, Step("spatial", {"share": share}), samples, smallest=1)


def separable(generator: Generator, samples: Samples = ()) -> Generator:
    """Convolutions as a depthwise one and a 1x1 one behind it (MobileNet, Howard et al. 2017).

    W[o, i] ~ P[o, i] D[i]: per input channel the closest product of a kernel and a column, by SVD.
    This is coarse; training has to follow.

    Args:
        generator: float.
        samples: inputs to fit to, see `split_layers`.

    Raises:
        UsageError: the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        return _by_groups(weight, moments, weight.shape[1])

    return split_layers(generator, split, Step("separable"), samples)


def grouped(generator: Generator, share: float, samples: Samples = ()) -> Generator:
    """Convolutions as one of as many channels, in groups, and a 1x1 one behind it.

    Between a plain convolution and a separable one: with g groups a kernel of k taps costs
    1 / g + 1 / k as much. Per group of input channels the closest factors, by SVD (Peng et al.
    2018, "Extreme Network Compression via Filter Group Approximation").

    Args:
        generator: float.
        share: of the multiply-accumulates to leave at most of each such layer, between 0 and 1.
        samples: inputs to fit to, see `split_layers`.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """
    check_share("grouped", share)

    def split(weight: Tensor, moments: Tensor) -> list[Part] | None:
        outs, ins, *kernel = weight.shape
        taps = math.prod(kernel)
        for groups in (g for g in range(2, ins + 1) if ins % g == 0):
            if ins * ins * taps / groups + outs * ins <= share * weight.numel():
                return _by_groups(weight, moments, groups)
        return None

    return split_layers(generator, split, Step("grouped", {"share": share}), samples)


def _by_groups(weight: Tensor, moments: Tensor, groups: int) -> list[Part] | None:
    """As many channels between the two as before them."""
    outs, ins, *kernel = weight.shape
    each, columns = ins // groups, weight[0].numel() // groups
    if math.prod(kernel) == 1 or outs < each:
        return None
    # (groups, out, in / groups * taps)
    flat = weight.unflatten(1, (groups, each)).transpose(0, 1).flatten(2)
    place = torch.arange(groups)
    own = moments.unflatten(1, (groups, columns)).unflatten(0, (groups, columns))[place, :, place]
    left, right = _factors(flat, own, each)
    point = left.transpose(0, 1).reshape(outs, ins)
    return [Part(right.reshape(ins, each, *kernel), groups), Part(_pointwise(point, weight))]


def _factors(matrix: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(..., rows, rank) and (..., rank, columns), whose product with inputs is the closest.

    Args:
        matrix: (..., rows, columns).
        moments: (..., columns, columns), the second moments of the inputs; positive definite.
        rank: of the product.
    """
    root = torch.linalg.cholesky(moments)
    u, s, v = torch.linalg.svd(matrix.double() @ root, full_matrices=False)
    half = s[..., :rank].sqrt()
    right = torch.linalg.solve_triangular(
        root, half[..., None] * v[..., :rank, :], left=False, upper=False
    )
    return (u[..., :rank] * half[..., None, :]).float(), right.float()


def _pointwise(matrix: Tensor, weight: Tensor) -> Tensor:
    """As a kernel of 1x1 with the axes of `weight`."""
    return matrix.reshape(*matrix.shape, *(1 for _ in weight.shape[2:])).contiguous()
