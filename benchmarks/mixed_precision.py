"""Which precision each layer gets, by the runtime's clock, and how far that was foreseen.

    python benchmarks/mixed_precision.py MODEL [--data DIR] [--floor DB ...] [--limit N]
        [--rewrites NAME ...] [--on openvino] [--threads 2]

MODEL is whatever leangan.load takes. For each floor it prints what compress would try: the
predicted and the measured quality of each plan, the layers that stay float by the clock and those
that would by multiply-accumulates alone. Before that, the time of each layer in float and in 8
bits, and what share of a whole run the layers are. Ratios between two lines of one run count;
milliseconds are the machine's.
"""

from __future__ import annotations

import argparse
import math

import leangan as lg
from leangan import runtimes, tasks
from leangan.graph.cost import layers
from leangan.graph.doors import DOOR_REWRITES, rewritten
from leangan.search.candidate import Candidate
from leangan.search.data import affordable, data_path
from leangan.search.lab import Lab
from leangan.search.mixed import WORD, Asked, Mixed, attempt_mixed
from leangan.search.plans import fastest, groups
from leangan.tasks.pictures import flat_samples
from leangan.techniques.calibrate import calibrate
from leangan.techniques.layer_code import Calibration
from leangan.techniques.scheme import FLOAT


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--floor", type=float, nargs="+", default=[40.0], help="dB")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rewrites", nargs="*", default=[], choices=DOOR_REWRITES)
    parser.add_argument("--on", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    generator = lg.load(given.model)
    task = tasks.infer(generator)
    limit = given.limit or affordable(generator)
    data = task.data(generator, data_path(given.data), limit=limit, seed=0)
    generator = rewritten(generator, given.rewrites)
    used = (*data.calibration, *flat_samples(generator))
    calibration = calibrate(generator, [s.inputs for s in used], names=[s.name for s in used])
    macs: dict[str, int] = {}
    for layer in layers(generator):
        macs[layer.name] = macs.get(layer.name, 0) + layer.macs
    precision = runtimes.get(given.on).precisions(quantized=False)[-1]
    for floor in given.floor:
        with Lab(generator, task, data, given.threads, lambda *_: None) as lab:
            plain = lab.attempt(Candidate("float", given.on, precision, generator, plain=True))
            asked = Asked(lab, generator, {WORD: calibration}, macs, floor)
            found = attempt_mixed(asked, plain, given.on, careful=False)
            lab.time()
            if floor == given.floor[0]:
                show_layers(lab, plain, calibration, macs, found)
            print(f"\nfloor {floor:.1f} dB")
            print(f"  {'float':44} {plain.speedup:5.2f}x")
            for foreseen, candidate in found.tried:
                seen = candidate.quality.get("psnr") or candidate.quality.get("snr") or {}
                db = f"{foreseen.predicted_db:5.1f} dB, measured {seen.get('mean', 0):5.1f} dB"
                print(
                    f"  {candidate.name:44} {candidate.speedup or 0:5.2f}x of eager, "
                    f"{(candidate.speedup or 0) / (plain.speedup or 1):4.2f}x of float, "
                    f"predicted {db}"
                )
            for how, known in (("clock", found.times), ("MACs", {})):
                plan = fastest(groups({WORD: calibration}, known, macs), lab.power, floor + 0.7)
                kept = plan.keep_float
                share = sum(macs[n] for n in kept) / sum(macs.values())
                print(
                    f"  float by the {how}, uncorrected: {len(kept)} of {len(calibration)} layers, "
                    f"{share:.0%} of the MACs: {' '.join(kept)}"
                )


def show_layers(
    lab: Lab, plain: Candidate, calibration: Calibration, macs: dict[str, int], found: Mixed
) -> None:
    """The table of layers, and their sum beside a whole run."""
    whole, times = sum(macs.values()), found.times
    print(f"{'layer':40} {'MACs':>6} {'float':>8} {'int8':>8} {'alone':>6}")
    for name, code in calibration.items():
        ms = [times.get(w, {}).get(name, float("nan")) for w in (FLOAT, WORD)]
        noise = math.log10(lab.power / code.noise) * 10 if code.noise else float("inf")
        share = macs[name] / whole
        print(f"{name:40} {share:6.1%} {ms[0]:8.3f} {ms[1]:8.3f} {noise:6.1f}")
    for title, word, candidate in (
        ("float", FLOAT, plain),
        ("all in 8 bits", WORD, found.tried[0][1]),
    ):
        if candidate.latency and word in times:
            total = sum(times[word].values())
            print(
                f"{title}: layers {total:.2f} ms, a whole run {candidate.latency.p50:.2f} ms "
                f"({total / candidate.latency.p50:.0%})"
            )


if __name__ == "__main__":
    main()
