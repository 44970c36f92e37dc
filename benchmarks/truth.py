"""PSNR-Y against ground truth of a super-resolution generator and of its compressed form.

    python benchmarks/truth.py netG_epoch_4_100.pth OUT set5 set14 [--threads 2]

Whole pictures, cut to a multiple of the scale, reduced by antialiased bicubic; the luma of
BT.601, with as many border pixels cut as the scale is: the convention of the literature.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from leangan import runtimes
from leangan.generator import Generator
from leangan.measure.image import psnr, psnr_y
from leangan.search.compare import Model, open_model
from leangan.tasks.anysize import run_any_size
from leangan.tasks.images import from_port, list_images, read_image, to_port
from leangan.tasks.super_resolution import shrink


def runner(model: Model, threads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    if model.artifact is None:
        return lambda x: model.generator.outputs(x)[0]
    session = runtimes.get(model.artifact.runtime).open(model.artifact, threads)
    return lambda x: torch.from_numpy(session.run([x.numpy()])[0])


@dataclass(frozen=True)
class Scores:
    """Means over a folder of pictures."""

    original: float
    """PSNR-Y of the original to ground truth, dB."""
    lost: float
    """How much lower the other one's is."""
    own: float
    """PSNR of the other one's output to the original's, dB."""
    count: int


def scores(
    original: Generator,
    made: Generator,
    folder: Path,
    run: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Scores:
    """Judge `made`, or what `run` computes of an input, on whole pictures."""
    port_in, port_out = original.signature.inputs[0], original.signature.outputs[0]
    scale = port_out.typical[2] // port_in.typical[2]
    runs = [lambda x: original.outputs(x)[0], run or (lambda x: made.outputs(x)[0])]
    found: list[tuple[float, float, float]] = []
    for path in list_images(folder):
        rgb = read_image(path).rgb
        height, width = (n // scale * scale for n in rgb.shape[1:])
        truth = rgb[:, :height, :width]
        x = to_port(shrink(truth, height // scale, width // scale), port_in)
        outs = [from_port(run_any_size(r, x, port_in), port_out) for r in runs]
        a, b = (psnr_y(o, truth[None], scale) for o in outs)
        found.append((a, b, psnr(outs[0], outs[1])))
    a, b, own = (fmean(column) for column in zip(*found, strict=True))
    return Scores(a, a - b, own, len(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original")
    parser.add_argument("result")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    original, result = open_model(options.original), open_model(options.result)
    run = runner(result, options.threads)
    for folder in options.data:
        found = scores(original.generator, result.generator, folder, run)
        print(
            f"{folder.name}: original {found.original:.3f} dB, compressed "
            f"{found.original - found.lost:.3f} dB, lost {found.lost:.3f} dB; to its own output "
            f"{found.own:.2f} dB (n {found.count})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
