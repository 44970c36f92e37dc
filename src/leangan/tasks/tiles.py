"""Run large pictures in overlapping tiles, so that memory depends on the tile only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.generator import Port
from leangan.tasks.anysize import Run, pad_end, run_any_size

SMALLEST_TILE = 32
"""Pixels a side below which a tile is not halved any further when memory is short."""


def run_tiled(
    run: Run,
    x: Tensor,
    port: Port,
    tile: int,
    halo: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run in windows of one size (what compiles per shape, compiles once), each cut to its tile.

    The output equals that of the whole picture when `halo` is at least the number of pixels
    that an output pixel sees to each side. When a window does not fit into memory, tiles are
    halved.

    Args:
        run: the generator.
        x: one picture in the port's layout; on the host, as the result is.
        port: the input's. The output has the same letters at the same axes.
        tile: pixels a side of the input that one call contributes; rounded up to the multiple.
        halo: pixels to each side that a call sees beyond its tile; rounded up likewise.
        progress: is called with the tiles done and the tiles in all.

    Raises:
        LeanganError: the size that the port fixes leaves nothing between the halos, the output
            does not grow in proportion, or even the smallest tile does not fit into memory.
    """
    while True:
        try:
            return _run_tiled(run, x, port, tile, halo, progress)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if tile // 2 < SMALLEST_TILE:
                raise LeanganError(
                    f"A tile of {tile} pixels with {halo} more to each side does not fit into "
                    "memory; close other programs or use a machine with more."
                ) from error
            tile //= 2


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, in the words of whoever raised it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("can't allocate", "out of memory", "failed to allocate")
    )


def _run_tiled(
    run: Run,
    x: Tensor,
    port: Port,
    tile: int,
    halo: int,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    axes = [port.layout.index(letter) for letter in "HW"]
    sizes = [x.shape[axis] for axis in axes]
    plans = []
    for axis, size in zip(axes, sizes, strict=True):
        fixed = port.shape[axis]
        full = -(-size // port.multiple_of(axis)) * port.multiple_of(axis)
        if fixed is not None:
            full = max(size, fixed)
        x = pad_end(x, axis, full)
        plans.append(list(_windows(full, port, axis, tile, halo)))
    output: Tensor | None = None
    scales: list[Fraction] = []
    done, total = 0, len(plans[0]) * len(plans[1])
    for top in plans[0]:
        for left in plans[1]:
            part = x
            for axis, (start, length, _, _) in zip(axes, (top, left), strict=True):
                part = part.narrow(axis, start, length)
            result = run_any_size(run, part.contiguous(), port)
            if output is None:
                scales = [Fraction(result.shape[a], part.shape[a]) for a in axes]
                shape = list(result.shape)
                for axis, size, scale in zip(axes, sizes, scales, strict=True):
                    shape[axis] = _scaled(size, scale)
                output = torch.empty(shape, dtype=result.dtype)
            target = output
            for axis, size, scale, (start, _, begin, end) in zip(
                axes, sizes, scales, (top, left), strict=True
            ):
                end = min(end, size)
                first, length = _scaled(begin, scale), _scaled(end, scale) - _scaled(begin, scale)
                result = result.narrow(axis, first - _scaled(start, scale), length)
                target = target.narrow(axis, first, length)
            target.copy_(result)
            done += 1
            if progress:
                progress(done, total)
    assert output is not None
    return output


def _windows(
    size: int, port: Port, axis: int, tile: int, halo: int
) -> Iterator[tuple[int, int, int, int]]:
    """(window start, window length, tile begin, tile end) along one axis of that padded size."""
    multiple = port.multiple_of(axis)
    halo = -(-halo // multiple) * multiple
    fixed = port.shape[axis]
    tile = fixed - 2 * halo if fixed is not None else -(-tile // multiple) * multiple
    if fixed == size:
        tile = size
    if tile < 1:
        raise LeanganError(
            f"Input {port.name!r} takes the size {fixed} only, and each output pixel depends on "
            f"{halo} pixels to each side: larger pictures cannot be put together from tiles. "
            "Make the picture smaller."
        )
    length = min(tile + 2 * halo, size)
    for begin in range(0, size, tile):
        start = min(max(begin - halo, 0), size - length)
        yield start, length, begin, min(begin + tile, size)


def _scaled(size: int, scale: Fraction) -> int:
    result = scale * size
    if result.denominator != 1:
        raise LeanganError(
            f"The output is {scale} times as large as the input, which gives no whole number of "
            f"pixels at {size}; run the picture whole, without tiles."
        )
    return int(result)
