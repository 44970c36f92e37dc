"""Codebooks beside linear weights of as many bits: quality on held-out data, bytes of the file.

    python benchmarks/codebooks.py MODEL [--data DIR] [--bits 4 3] [--limit 12] [--crop 128]

Weights only, without any training; activations stay float. Linear weights are symmetric with one
scale per output channel, of the largest weight (min-max) or of the least squared error (MSE).
Quality is the PSNR of the output to the original's, the signal to error ratio where it is no
picture.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import leangan as lg
from leangan import tasks
from leangan.generator import Generator, Step
from leangan.measure import image
from leangan.measure.signal import snr
from leangan.search.data import data_path
from leangan.techniques.codebook.layers import find_layers

Inputs = tuple[Tensor, ...]


def linear(generator: Generator, bits: int, *, search: bool) -> Generator:
    """Weights at the nearest of 2^bits - 1 even steps per output channel."""
    module = generator.module()
    top = 2 ** (bits - 1) - 1
    state = generator.program.state_dict
    changed = {}
    for layer in find_layers(generator, module, None):
        rows = layer.weight.movedim(layer.axis, 0).flatten(1)
        full = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
        best, least = rows, torch.full((len(rows), 1), torch.inf)
        for shrink in torch.linspace(1, 0.3, 71) if search else torch.ones(1):
            scale = full * shrink
            found = (rows / scale).round().clamp(-top, top) * scale
            error = (found - rows).square().sum(1, keepdim=True)
            best = torch.where(error < least, found, best)
            least = torch.minimum(error, least)
        shape = layer.weight.movedim(layer.axis, 0).shape
        changed[layer.path] = best.reshape(shape).movedim(0, layer.axis).contiguous()
    ids = {id(state[path]): torch.nn.Parameter(value) for path, value in changed.items()}
    program = copy.copy(generator.program)
    program._state_dict = {name: ids.get(id(t), t) for name, t in state.items()}
    return generator.then(program, Step("linear"))


def quality(original: Sequence[Tensor], made: Generator, inputs: Sequence[Inputs]) -> float:
    """Mean dB over the inputs."""
    port = made.signature.outputs[0]
    found = []
    for reference, one in zip(original, inputs, strict=True):
        output = made.outputs(*one)[0]
        if port.kind == "image" and port.range is not None:
            low, high = port.range
            a, b = (((t - low) / (high - low)).clamp(0, 1) for t in (reference, output))
            found.append(image.psnr(a, b))
        else:
            found.append(snr(reference, output))
    return fmean(found)


def crop(generator: Generator, inputs: Inputs, size: int) -> Inputs:
    """The middle of pictures, so that large networks are done in minutes."""
    made = []
    for port, value in zip(generator.signature.inputs, inputs, strict=True):
        for axis, letter in enumerate(port.layout):
            if letter in "HW" and port.shape[axis] is None and value.shape[axis] > size:
                value = value.narrow(axis, (value.shape[axis] - size) // 2, size)
        made.append(value)
    return tuple(made)


def size(generator: Generator) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return generator.save(Path(folder) / "g.pt2").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--crop", type=int, default=128)
    options = parser.parse_args()
    generator = lg.load(options.model)
    data = tasks.infer(generator).data(generator, data_path(options.data), limit=options.limit)
    used = [crop(generator, s.inputs, options.crop) for s in data.calibration]
    held = [crop(generator, s.inputs, options.crop) for s in data.held_out]
    reference = [generator.outputs(*one)[0] for one in held]
    floats = size(generator)
    print(f"{generator.name}: {floats} bytes, judged on {len(held)} samples")
    print("| weights | dB | file | of float |\n| --- | ---: | ---: | ---: |")

    def row(name: str, made: Generator) -> None:
        bytes_ = size(made)
        db = quality(reference, made, held)
        print(f"| {name} | {db:.2f} | {bytes_} | 1/{floats / bytes_:.2f} |", flush=True)

    for bits in options.bits:
        row(f"linear {bits}, min-max", linear(generator, bits, search=False))
        row(f"linear {bits}, MSE", linear(generator, bits, search=True))
        row(f"powers of two {bits}", lg.codebook(generator, bits, levels="power-of-two"))
        row(f"codebook {bits}, one per tensor", lg.codebook(generator, bits, per="tensor"))
        row(f"codebook {bits}", lg.codebook(generator, bits))
        row(f"codebook {bits} with data", lg.codebook(generator, bits, data=used))
    row("prune 50%, codebook 4", lg.codebook(lg.prune_weights(generator, 0.5), 4, data=used))


if __name__ == "__main__":
    main()
