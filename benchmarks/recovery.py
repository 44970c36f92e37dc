"""What training gives back of what compression took, on a real super-resolution generator.

    python benchmarks/recovery.py MODEL --data DIR --truth SET5 SET14 [--steps 2000] [--seeds 3]
        [--only pruned coded int8 sparse] [--zeros 0.5] [--work DIR] [-o TABLE.md]

Per form: PSNR-Y lost against ground truth before and after, PSNR to the original's own output,
the share of the loss that came back, and bytes of the .pt2 beside the original's. Forms:
`pruned` 50% of the weights by magnitude; `sparse` the same after half of the steps with an L1
penalty; `coded` 4-bit codebooks; `int8` every layer in 8 bits; `both` zeros, then 4-bit codebooks;
`gradual` zeros cut on the way; `half` half of the MACs; `iterative` the same in three steps with
training between. All train for as many steps; --zeros changes the share of zeros.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from truth import scores

import leangan as lg
from leangan import tasks
from leangan.generator import Generator
from leangan.search.data import data_path
from leangan.tasks.pictures import flat_samples
from leangan.training.losses import read_losses


def forms(
    original: Generator, inputs: list, flats: list, zeros: float
) -> dict[str, Callable[[], Generator]]:
    return {
        "pruned": lambda: lg.prune_weights(original, zeros),
        "sparse": lambda: lg.prune_weights(original, zeros),
        "coded": lambda: lg.codebook(original, 4, data=inputs),
        "int8": lambda: lg.quantize(original, lg.calibrate(original, [*inputs, *flats])),
        "both": lambda: lg.prune_weights(original, zeros),
        "gradual": lambda: original,
        "half": lambda: lg.prune_channels(original, macs=0.5, data=inputs),
        "iterative": lambda: lg.prune_channels(original, macs=0.5, data=inputs),
    }


RATES = {"coded": 2e-4}
"""Of the others 3e-4."""
SHARES = (0.8, 0.63, 0.5)
"""Of the MACs, of `iterative`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--truth", nargs="+", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--loss", default="charbonnier")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--zeros", type=float, default=0.5)
    parser.add_argument("--l1", type=float, default=1e-6)
    parser.add_argument("--work", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    original = lg.load(options.model)
    task = tasks.infer(original)
    samples = task.data(original, data_path(options.data), limit=24)
    inputs = [s.inputs for s in samples.calibration]
    flats = [s.inputs for s in flat_samples(original)]
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        whole = original.save(work / "original.pt2").stat().st_size
        heads = " | ".join(f"{f.name}: lost, trained" for f in options.truth)
        lines = [
            f"| form | seed | dB to original, trained | {heads} | came back | file | minutes |",
            "| --- | ---: | --- |" + " --- |" * len(options.truth) + " ---: | ---: | ---: |",
        ]
        returned: dict[str, list[float]] = {}
        for name, make in forms(original, inputs, flats, options.zeros).items():
            if options.only and name not in options.only:
                continue
            start = make()
            before = [scores(original, start, folder) for folder in options.truth]
            for seed in range(options.seeds):
                began = time.monotonic()
                losses = read_losses(options.loss)

                def tune(
                    g: Generator, folder: str, lr: float, share: float = 1.0, **more: float
                ) -> Generator:
                    settings = lg.TrainSettings(
                        steps=round(share * options.steps),
                        batch=options.batch,
                        lr=lr,
                        seed=seed,  # noqa: B023
                    )
                    return lg.finetune(
                        g, options.data, work / f"{folder}-{seed}",  # noqa: B023
                        settings=settings, teacher=original, losses=losses,  # noqa: B023
                        size=options.crop, limit=24, resume=True,
                        progress=lambda m, *_: print(m, file=sys.stderr), **more,
                    ).generator  # fmt: skip

                rate = options.lr or RATES.get(name, 3e-4)
                if name == "gradual":
                    made = tune(start, name, rate, zeros=options.zeros)
                elif name == "sparse":
                    thin = tune(original, "thin", rate, 0.5, l1=options.l1)
                    made = tune(lg.prune_weights(thin, options.zeros), name, rate, 0.5)
                elif name == "iterative":
                    made, left = original, 1.0
                    for macs in SHARES:
                        cut = lg.prune_channels(made, macs=macs / left, data=inputs)
                        made, left = tune(cut, f"{name}-{macs}", rate, 1 / len(SHARES)), macs
                else:
                    made = tune(start, name, rate)
                if name == "both":
                    coded = lg.codebook(made, 4, data=inputs)
                    made = tune(coded, "both-coded", RATES["coded"])
                minutes = (time.monotonic() - began) / 60
                after = [scores(original, made, folder) for folder in options.truth]
                size = made.save(work / f"{name}-{seed}.pt2").stat().st_size
                shares = [
                    1 - a.lost / b.lost if b.lost > 0 else 1.0
                    for a, b in zip(after, before, strict=True)
                ]
                returned.setdefault(name, []).append(statistics.fmean(shares))
                columns = " | ".join(
                    f"{b.lost:.3f}, {a.lost:.3f}" for a, b in zip(after, before, strict=True)
                )
                own = [statistics.fmean(s.own for s in x) for x in (before, after)]
                lines.append(
                    f"| {name} | {seed} | {own[0]:.1f}, {own[1]:.1f} | {columns} "
                    f"| {statistics.fmean(shares):.0%} | 1/{whole / size:.2f} | {minutes:.1f} |"
                )
                print(lines[-1], flush=True)
                if options.out:
                    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    for name, shares in returned.items():
        if len(shares) > 1:
            print(f"{name}: {statistics.fmean(shares):.1%} +- {statistics.stdev(shares):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
