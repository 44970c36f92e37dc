"""Replace weights by the nearest of a few levels.

Han, Mao, Dally: Deep Compression (ICLR 2016). Levels stand where the weights are, not in even
steps, and where the layer's inputs are strong they stand closer. One codebook serves a group of
output channels, as few as its bytes are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.weights import with_weights
from leangan.techniques.codebook.feedback import (
    layers_with_feedback,
    one_thread,
    round_with_feedback,
)
from leangan.techniques.codebook.kmeans import INITS, Init, kmeans, nearest, powers_of_two
from leangan.techniques.codebook.layers import Layer, affordable, find_layers
from leangan.techniques.order import refuse_quantized

Samples = Sequence[tuple[Tensor, ...]]
_OVERHEAD = 0.45
"""Bits per weight that codebooks may cost; entropy coding saves about as much on the indices."""
_HALF = 5
"""Up to so many bits, levels of 16 bits are finer than the steps between them by far."""


def codebook(
    generator: Generator,
    bits: int = 4,
    *,
    data: Samples | None = None,
    per: Literal["tensor", "group"] = "group",
    init: Init = "k-means++",
    levels: Literal["k-means", "power-of-two"] = "k-means",
    only: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Generator:
    """Quantize the weights of convolutions and linear layers to the levels of codebooks.

    The weights stay float tensors, of 2^bits different values per codebook, and the generator
    runs as fast as before. Saved, it is small: codebooks and entropy-coded indices. Weights that
    are zero stay zero, so that pruning comes first and makes the indices cheaper. Biases and norms
    stay float; a weight that several layers share is quantized once.

    Args:
        generator: float, not quantized.
        bits: 2 to 8; a codebook has 2^bits levels.
        data: calibration inputs. With them a weight counts as much as the mean square of the
            input channel that it multiplies, weights are rounded so that the layer's output keeps
            (see feedback.py), and biases make up for what its mean moved.
        per: one codebook per "tensor", or per "group" of output channels, as small as keeps the
            codebooks below half a bit per weight.
        init: how k-means starts, see `kmeans`.
        levels: "k-means", or zero and signed powers of two.
        only: patterns of layer names, with * and ?. All when not given.
        seed: the same seed gives the same bytes.
        progress: called with (layers done, layers in all).

    Returns:
        The quantized generator. Its step "quantize_codebook" says per layer the number of
        codebooks and the signal to noise of the weights, in dB.

    Raises:
        UsageError: a setting makes no sense, data is empty, or the generator is quantized.
        LeanganError: there is no layer with stored weights.
    """
    _check(bits, per, init, levels, data)
    refuse_quantized(generator, "Fit codebooks")
    module = generator.module()
    layers = find_layers(generator, module, only)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(layers))

    new: dict[str, Tensor] = {}
    groups = {w.path: 1 if per == "tensor" else group_count(w.weight, w.axis, bits) for w in layers}
    with one_thread():
        by_path = {w.path: w for w in layers if not w.shared} if data is not None else {}
        made = generator.module()
        with_feedback = by_path.keys() & layers_with_feedback(made)
        for layer in layers:
            if layer.path not in with_feedback:
                count = groups[layer.path]
                new[layer.path] = _round(
                    layer, count, _levels(layer, bits, count, init, levels, seed)
                )
                made.get_parameter(layer.path).data.copy_(new[layer.path])
                tell()
        if data is not None and with_feedback:

            def choose(path: str, power: Tensor) -> tuple[Tensor, Tensor] | None:
                if path not in with_feedback:
                    return None
                layer, count = by_path[path], groups[path]
                layer.power = power
                tell()
                channels = layer.weight.shape[layer.axis]
                outs = torch.arange(channels) * count // channels
                # Groups of a transposed convolution share the axis of output channels.
                book = outs.repeat(layer.groups) if layer.transposed else outs
                return _levels(layer, bits, count, init, levels, seed), book

            biases = {layer.bias for layer in layers if layer.bias is not None}
            samples = affordable(generator, data)
            round_with_feedback(module, made, choose, biases, samples, seed)
            for path in [*with_feedback, *biases]:
                new[path] = made.get_parameter(path).detach()
    seen = {layer.name: _seen(layer, new[layer.path], groups[layer.path]) for layer in layers}
    settings = {
        "bits": bits,
        "per": per,
        "init": init,
        "levels": levels,
        "only": list(only) if only is not None else None,
        "seed": seed,
        "data": len(data) if data is not None else 0,
    }
    step = Step("quantize_codebook", settings, {"layers": seen})
    return generator.then(with_weights(generator, new), step)


def group_count(weight: Tensor, axis: int, bits: int) -> int:
    """Into how many groups of output channels a weight is parted: all of one size."""
    channels = weight.shape[axis]
    cost = 2**bits * (16 if bits <= _HALF else 32)
    # Pruned weights need no level, and few bits.
    each = int(torch.count_nonzero(weight)) / channels
    for size in range(1, channels + 1):
        if channels % size == 0 and each * size >= cost / _OVERHEAD:
            return channels // size
    return 1


def _levels(layer: Layer, bits: int, groups: int, init: Init, kind: str, seed: int) -> Tensor:
    """Ascending levels, float64 (groups, 2^bits)."""
    rows = layer.weight.movedim(layer.axis, 0).reshape(groups, -1)
    counts = torch.ones_like(layer.weight, dtype=torch.float64)
    if layer.power is not None and float(layer.power.sum()) > 0:
        power = layer.power.clamp_min(float(layer.power.mean()) * 1e-3)
        counts = counts * layer.over_inputs(power)
    counts = counts.movedim(layer.axis, 0).reshape(groups, -1)
    zeros = rows == 0
    number = 2**bits
    if kind == "power-of-two":
        return powers_of_two(rows, counts, number)
    pruned = bool(zeros.any())
    if pruned:  # zero is a level of its own, and the others need not care for it
        found = kmeans(rows, torch.where(zeros, 0.0, counts), number - 1, init=init, seed=seed)
    else:
        found = kmeans(rows, counts, number, init=init, seed=seed)
    if bits <= _HALF:
        found = found.to(torch.bfloat16).double()
    if pruned:
        found = torch.cat([found, torch.zeros(groups, 1, dtype=torch.float64)], 1)
    return found.to(layer.weight.dtype).double().sort(dim=1).values


def _round(layer: Layer, groups: int, levels: Tensor) -> Tensor:
    """The weight with each value at the nearest level; zero stays zero."""
    lined = layer.weight.movedim(layer.axis, 0)
    rows = lined.reshape(groups, -1)
    taken = levels.gather(1, nearest(rows, levels)).to(layer.weight.dtype)
    taken = torch.where(rows == 0, 0.0, taken)
    return taken.reshape(lined.shape).movedim(0, layer.axis).contiguous()


def _seen(layer: Layer, made: Tensor, groups: int) -> dict[str, Any]:
    error = float((made - layer.weight).double().square().sum())
    power = float(layer.weight.double().square().sum())
    snr = None if error == 0 or power == 0 else _db(power / error)
    return {"codebooks": groups, "snr_db": snr}


def _db(ratio: float) -> float:
    return float(10 * torch.tensor(ratio, dtype=torch.float64).log10())


def _check(bits: int, per: str, init: str, levels: str, data: Samples | None) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise UsageError(f"A codebook has 2 to 8 bits; {bits!r} was asked for.")
    if per not in ("tensor", "group"):
        raise UsageError(f"A codebook is fitted per tensor or per group, not per {per!r}.")
    if init not in INITS:
        raise UsageError(f"There is no start {init!r}; choose from {', '.join(INITS)}.")
    if levels not in ("k-means", "power-of-two"):
        raise UsageError(f"Levels are k-means or power-of-two, not {levels!r}.")
    if data is not None and not data:
        raise UsageError("Codebooks were given data, but it is empty: leave it out or fill it.")
