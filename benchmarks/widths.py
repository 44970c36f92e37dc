"""Why kept widths are rounded: six 3x3 convolutions of each width, timed interleaved.

    python benchmarks/widths.py [--threads 2] [--size 96]

Prints, per runtime and width, how much time a multiply-accumulate takes beside the widest.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

import leangan as lg
from leangan import runtimes
from leangan.measure.latency import Worker, paired, speedup

WIDTHS = (64, 56, 52, 48, 45, 44, 40, 36, 33, 32)
FORMS = (("openvino", "bf16"), ("openvino", "fp32"), ("onnxruntime", "fp32"))


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(6):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    example = torch.rand(1, 3, arguments.size, arguments.size)
    generators = {w: lg.load(network(w), example_inputs=(example,)) for w in WIDTHS}
    print("| width | " + " | ".join(f"{n} {p}" for n, p in FORMS) + " |")
    print("| ---: |" + " ---: |" * len(FORMS))
    columns = []
    for name, precision in FORMS:
        if precision not in runtimes.get(name).precisions(quantized=False):
            columns.append(dict.fromkeys(WIDTHS, "not run by this CPU"))
            continue
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = []
            for width, generator in generators.items():
                place = Path(folder) / str(width)
                place.mkdir()
                built = runtimes.get(name).build(generator, place, precision)
                workers.append(stack.enter_context(Worker(built, arguments.threads)))
                workers[-1].run([example.numpy()])
            timings = paired(workers)
        column = {}
        for width, timing in zip(WIDTHS, timings, strict=True):
            faster = speedup(timings[0], timing)
            fewer = (WIDTHS[0] / width) ** 2
            column[width] = f"{timing.latency().p50:.1f} ms, {fewer / faster:.2f}"
        columns.append(column)
    for width in WIDTHS:
        print(f"| {width} | " + " | ".join(column[width] for column in columns) + " |")


if __name__ == "__main__":
    main()
