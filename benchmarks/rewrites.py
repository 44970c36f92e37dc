"""What exact rewrites alone give: OpenVINO bf16 of a generator as it comes and rewritten.

    python benchmarks/rewrites.py zoo:realesrgan-x4plus-anime zoo:dcgan-faces [--unet]
        [--precision bf16] [--threads 2] [--batch 1]

The rewrites that pay are chosen as `compress` does, then both forms are timed in turns for long.
The difference is of the graphs in float32, as a share of the output's range.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pairs import unet

import leangan as lg
from leangan.generator import Generator
from leangan.graph.rewrite import largest_difference
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.search.rewrites import rewrites_that_pay
from leangan.tasks.base import Data


def generators(models: list[str], with_unet: bool, batch: int) -> Iterator[Generator]:
    for model in models:
        yield lg.load(model).sized({"N": batch})
    if with_unet:
        yield unet(64, 8, 256).sized({"N": batch})


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
            f"| {gained:.2f} | {largest_difference(generator, best.generator):.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
