"""A student beside its teacher, on pictures of their own: decibels, distributions, a sheet.

    python benchmarks/student.py TEACHER STUDENT --data DIR [--limit N] [--sheet SHEET.png]

STUDENT is a generator.pt2 or a folder that compress left, DIR holds pictures that it was not
trained on: all of them are judged, up to the limit. Printed for the student and for the
untouched input: PSNR to the teacher's output, the same after averaging 4x4 pixels (film grain is
noise that nobody can learn), and the Frechet distance to the teacher's outputs of SqueezeNet 1.1
features: of all positions of its feature map of 256 channels, since pictures are few.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from truth import runner

import leangan as lg
from leangan import tasks
from leangan.measure.frechet import enough, frechet
from leangan.measure.image import psnr
from leangan.measure.perceptual import enlarged, load_network
from leangan.search.compare import open_model
from leangan.search.data import data_path
from leangan.tasks.images import from_port, to_8_bit

LAYER = 2
"""Of SqueezeNet's feature maps: 256 channels at an eighth of the picture's size."""


def features(pictures: list[Tensor]) -> np.ndarray:
    network = load_network()
    assert network is not None
    with torch.no_grad():
        maps = [network(enlarged(p))[LAYER] for p in pictures]
    return torch.cat([m.flatten(2)[0].T for m in maps]).double().numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    teacher = lg.load(options.teacher)
    run = runner(open_model(options.student), 2)
    port_in, port_out = teacher.signature.inputs[0], teacher.signature.outputs[0]
    samples = tasks.infer(teacher).data(
        teacher, data_path(options.data), limit=options.limit, seed=options.seed
    )
    inputs, wanted, made = [], [], []
    for sample in (*samples.calibration, *samples.held_out):
        inputs.append(from_port(sample.inputs[0], port_in))
        wanted.append(from_port(teacher.outputs(*sample.inputs)[0], port_out))
        made.append(from_port(run(sample.inputs[0]), port_out))
    print(f"{len(inputs)} pictures")
    target = features(wanted)
    for name, pictures in (("input", inputs), ("student", made)):
        plain = fmean(psnr(a, b) for a, b in zip(wanted, pictures, strict=True))
        smooth = fmean(
            psnr(F.avg_pool2d(a, 4), F.avg_pool2d(b, 4))
            for a, b in zip(wanted, pictures, strict=True)
        )
        found = features(pictures)
        distance = frechet(found, target)
        note = "" if enough(len(found), found.shape[1]) else " (too few positions)"
        print(
            f"{name}: {plain:.2f} dB, {smooth:.2f} dB averaged, distance {distance:.3f} of "
            f"{found.shape[1]} features at {len(found)} positions{note}"
        )
    if options.sheet:
        rows = [
            torch.cat([a[0], b[0], c[0]], 2) for a, b, c in zip(inputs, wanted, made, strict=True)
        ]
        sheet: Image.Image = to_8_bit(torch.cat(rows[:8], 1))
        sheet.save(options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
