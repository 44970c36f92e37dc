"""PSNR-Y against ground truth of a super-resolution generator and of its compressed form.

    python benchmarks/truth.py netG_epoch_4_100.pth OUT set5 set14 [--threads 2]

Whole pictures, cut to a multiple of the scale, reduced by antialiased bicubic; the luma of
BT.601, with as many border pixels cut as the scale is: the convention of the literature.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch

from leangan import runtimes
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original")
    parser.add_argument("result")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = [open_model(options.original), open_model(options.result)]
    runs = [runner(m, options.threads) for m in models]
    port_in = models[0].generator.signature.inputs[0]
    port_out = models[0].generator.signature.outputs[0]
    scale = port_out.typical[2] // port_in.typical[2]
    for folder in options.data:
        scores: list[tuple[float, float, float]] = []
        for path in list_images(folder):
            rgb = read_image(path).rgb
            height, width = (n // scale * scale for n in rgb.shape[1:])
            truth = rgb[:, :height, :width]
            x = to_port(shrink(truth, height // scale, width // scale), port_in)
            outs = [from_port(run_any_size(run, x, port_in), port_out) for run in runs]
            a, b = (psnr_y(o, truth[None], scale) for o in outs)
            scores.append((a, b, psnr(outs[0], outs[1])))
        a, b, own = (fmean(column) for column in zip(*scores, strict=True))
        print(
            f"{folder.name}: original {a:.3f} dB, compressed {b:.3f} dB, lost {a - b:.3f} dB; "
            f"to its own output {own:.2f} dB (n {len(scores)})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
