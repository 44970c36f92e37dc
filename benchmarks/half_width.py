"""Half of all channels removed: how much faster is the network really? Timed interleaved.

python benchmarks/half_width.py zoo:realesrgan-x4plus-anime zoo:realesr-animevideov3-x4
    [--runtime openvino] [--precision bf16] [--threads 2]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import leangan as lg
from leangan import runtimes
from leangan.graph.channels import couple
from leangan.measure.latency import Worker, paired, speedup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    runtime = runtimes.get(arguments.runtime)
    print("| generator | coupling | weights | original | half the width | faster | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model in arguments.models:
        original = lg.load(model)
        begun = time.perf_counter()
        couple(original)
        coupling = time.perf_counter() - begun
        half = lg.prune_channels(original, 0.5, scope="uniform", by="l1", reconstruct=False)
        inputs = [x.numpy() for x in original.example()]
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = []
            for name, generator in (("original", original), ("half", half)):
                place = Path(folder) / name
                place.mkdir()
                built = runtime.build(generator, place, arguments.precision)
                workers.append(stack.enter_context(Worker(built, arguments.threads)))
                workers[-1].run(inputs)
            before, after = paired(workers)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| {original.name} | {coupling:.1f} s | {original.params:,} to {half.params:,} "
            f"| {before.latency().p50:.1f} ms | {after.latency().p50:.1f} ms "
            f"| {speedup(before, after):.2f} | {peak:.1f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
