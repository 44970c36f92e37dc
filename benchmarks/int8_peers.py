"""Post-training 8 bits of ours and of others, on the same samples, timed in one run.

    pip install nncf==3.4.0
    python benchmarks/int8_peers.py MODEL [--data DIR] [--limit N] [--size N] [--threads 2]
        [--keep FLOOR] [--only WORD ...] [--patience SECONDS] [--seconds N] [--quality-only]
        [--work DIR] [-o TABLE.md]

MODEL is whatever leangan.load takes. Every peer of peers.py calibrates on the samples that ours
calibrates on (without the flat colours that ours adds) and is judged, as ours is, on held-out
ones against the generator's own float output. Ours is what `compress` tries for its floor. All that
runs is timed interleaved, each in a process of its own. The exit code is 1 when there is a peer
that none of ours matches in quality and speed at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from arena import HEAD, Arena

import leangan as lg
from leangan import tasks
from leangan.search import pipeline
from leangan.search.candidate import Candidate
from leangan.search.data import affordable, data_path

NOISE = 1.03
"""Speeds this close are taken for the same."""


def verdicts(ours: Sequence[Candidate], rivals: Sequence[Candidate], metric: str) -> list[Any]:
    """Per rival that runs: its name, the best of ours at its speed or more and the decibels
    gained, the fastest of ours at its quality or more and the ratio."""

    def db(candidate: Candidate) -> float:
        return float(candidate.quality[metric]["mean"])

    found = []
    running = [c for c in ours if c.speedup]
    for rival in (r for r in rivals if r.speedup):
        as_fast = [c for c in running if c.speedup * NOISE >= rival.speedup]
        as_good = [c for c in running if db(c) >= db(rival)]
        best = max(as_fast, key=db, default=None)
        fastest = max(as_good, key=lambda c: c.speedup or 0, default=None)
        found.append(
            (
                rival.name,
                best and (best.name, db(best) - db(rival)),
                fastest and (fastest.name, fastest.speedup / rival.speedup),
            )
        )
    return found


def told(found: Sequence[Any]) -> tuple[list[str], int]:
    """The verdicts as a table, and the number of rivals that are not matched."""
    lines = [
        "| peer | matched | best of ours, as fast | dB more | fastest of ours, as good | times |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    unmatched = 0
    for name, best, fastest in found:
        matched = best is not None and best[1] >= 0
        unmatched += not matched
        lines.append(
            f"| {name} | {'yes' if matched else '**no**'} "
            f"| {f'{best[0]} | {best[1]:+.2f}' if best else 'none | '} "
            f"| {f'{fastest[0]} | {fastest[1]:.2f}' if fastest else 'none | '} |"
        )
    return lines, unmatched


def compare(options: argparse.Namespace) -> int:
    generator = lg.load(options.model)
    if options.size:
        generator = generator.sized(dict.fromkeys("HWT", options.size))
    limit = options.limit or affordable(generator)

    def say(message: str, done: int | None = None, of: int | None = None) -> None:
        print(message, done or "", of or "", file=sys.stderr, flush=True)

    labs: list[Arena] = []

    def enter(*args: Any, **more: Any) -> Arena:
        labs.append(Arena(*args, **more))
        labs[0].options = options
        return labs[0]

    if options.quality_only:
        task = tasks.infer(generator)
        data = task.data(generator, data_path(options.data), limit=limit)
        with enter(generator, task, data, options.threads, say) as lab:
            lab.time()
    else:
        with mock.patch.object(pipeline, "Lab", enter), tempfile.TemporaryDirectory() as folder:
            lg.compress(
                generator,
                options.data,
                Path(folder) / "out",
                threads=options.threads,
                limit=limit,
                keep=options.keep,
                progress=say,
            )
    lab = labs[0]
    lines = [
        f"# {generator.name}",
        "",
        f"{lab.metric} to its own float output on {len(lab.data.held_out)} held-out samples, "
        f"{len(lab.data.calibration)} to calibrate on, inputs as "
        f"{[p.typical for p in generator.signature.inputs]} when timed, {options.threads} threads.",
        "",
        HEAD,
        *lab.rows,
        "",
    ]
    table, unmatched = told(verdicts(lab.ours, lab.rivals, lab.metric))
    text = "\n".join([*lines, *table, ""])
    print(text)
    if options.out:
        options.out.write_text(text)
    return 1 if unmatched else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--keep", help="the floor that ours aims at; the task's when left out")
    parser.add_argument("--limit", type=int, help="most samples")
    parser.add_argument("--size", type=int, help="height, width or length of inputs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="peers with it in their name")
    parser.add_argument("--patience", type=float, default=600, help="seconds to build one peer")
    parser.add_argument("--seconds", type=float, default=240, help="of timing")
    parser.add_argument("--quality-only", action="store_true", help="peers alone, not timed")
    parser.add_argument("--work", type=Path, help="folder to keep peers in, for another timing")
    parser.add_argument("-o", "--out", type=Path)
    sys.exit(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
