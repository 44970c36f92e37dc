"""What exact rewrites alone give: OpenVINO bf16 of a generator as it comes and rewritten.

    python benchmarks/rewrites.py zoo:realesrgan-x4plus-anime zoo:dcgan-faces [--unet]
        [--precision bf16] [--threads 2] [--batch 1]

The rewrites that pay are chosen as `compress` does, then both forms are timed in turns for long.
The difference is of float32 files, as a share of the output's range.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

import leangan as lg
from leangan.architectures.pix2pix_unet import UnetGenerator
from leangan.generator import Generator
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.search.rewrites import rewrites_that_pay
from leangan.tasks.base import Data
from leangan.testing.patterns import settle


def unet() -> Generator:
    """The pix2pix U-Net for 256x256 with random weights, whose values do not change its speed."""
    torch.manual_seed(0)
    net = UnetGenerator(width=64, downs=8)
    settle(net)
    return lg.load(net.eval(), example_inputs=(1, 3, 256, 256), ranges={"x": (-1, 1)})


def generators(models: list[str], with_unet: bool, batch: int) -> Iterator[Generator]:
    for model in models:
        yield lg.load(model).sized({"N": batch})
    if with_unet:
        yield unet().sized({"N": batch})


def difference(generator: Generator, plain: Generator) -> float:
    """The largest, as a share of the output's range."""
    inputs = plain.example()
    with torch.inference_mode():
        a, b = (g.module()(*inputs) for g in (plain, generator))
    a, b = (y[0] if isinstance(y, tuple | list) else y for y in (a, b))
    return float((a - b).abs().max() / (a.max() - a.min()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--unet", action="store_true", help="also a U-Net with random weights")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    print("| generator | rewrites | as it comes | rewritten | faster | difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for generator in generators(given.models, given.unet, given.batch):
        first = Candidate("as it comes", "openvino", given.precision, generator, plain=True)
        with Lab(generator, None, Data([], []), given.threads, lambda *_, **__: None, first) as lab:
            plain = lab.attempt(Candidate("plain", "openvino", given.precision, generator))
            best = rewrites_that_pay(lab, plain)
            lab.candidates[:] = [plain, best]
            lab.time(seconds=40)
            times = [c.latency.p50 for c in (plain, best) if c.latency]
            gained = (best.speedup or 0) / (plain.speedup or 1)
        names = ", ".join(s.name for s in best.generator.history if s not in generator.history)
        print(
            f"| {generator.name} | {names or 'none'} | {times[0]:.1f} ms | {times[-1]:.1f} ms "
            f"| {gained:.2f} | {difference(best.generator, generator):.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
