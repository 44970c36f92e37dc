"""Post-training 8 bits of ours and of others, on the same samples, timed in one run.

    pip install nncf==3.4.0
    python benchmarks/int8_peers.py MODEL [--data DIR] [--limit N] [--size N] [--threads 2]
        [--only WORD ...] [--patience SECONDS] [--seconds N] [--quality-only] [-o TABLE.md]

MODEL is whatever leangan.load takes. Every peer of peers.py calibrates on the samples that ours
calibrates on (without the flat colours that ours adds) and is judged, as ours is, on held-out
ones against the generator's own float output. Ours is what `compress` tries by itself. All that
runs is timed interleaved, each in a process of its own. The exit code is 1 when there is a peer
that none of ours matches in quality and speed at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peers import PEERS, write_samples

import leangan as lg
from leangan import runtimes, tasks
from leangan.errors import LeanganError
from leangan.generator import Generator, Port
from leangan.measure.latency import Worker
from leangan.report.words import conditions
from leangan.runtimes.base import Artifact
from leangan.runtimes.onnx_file import port_names, write_onnx
from leangan.search import pipeline
from leangan.search.candidate import Candidate
from leangan.search.data import affordable, data_path
from leangan.search.lab import Lab
from leangan.tasks.base import Data

NOISE = 1.03
"""Speeds this close are taken for the same."""
PLAIN = "openvino bf16"


@dataclass
class Rival(Candidate):
    """Of others: judged on the samples alone, however far its output is from the original's."""

    def build(self, folder: Path, threads: int) -> None:
        if self.error is not None:
            return
        if self.artifact is None:  # one that our own runtimes build
            super().build(folder, threads)
            return
        try:
            self.worker = Worker(self.artifact, threads)
        except LeanganError as error:
            self.fail(error)


class Arena(Lab):
    """The Lab of `compress`, which the rivals join before the clock starts."""

    options: argparse.Namespace
    rivals: list[Candidate]
    ours: list[Candidate]
    rows: list[str]

    def time(self, *, seconds: float = 40.0) -> None:
        self.ours = list(self.candidates)
        with tempfile.TemporaryDirectory() as work:
            self.invite(Path(work))
            if not self.options.quality_only:
                super().time(seconds=self.options.seconds)
            plain = next((c.speedup or 0 for c in self.ours if c.name == PLAIN), 0)
            # Their files are gone when this block ends.
            self.rows = [row(c, self.metric, plain) for c in self.candidates]
        self.rivals = self.candidates[len(self.ours) :]
        for rival in self.rivals:
            rival.close()
        self.candidates[:] = self.ours  # what is delivered is chosen among ours

    def invite(self, work: Path) -> None:
        """Build, run and judge every peer."""
        lay_out(work, self.generator, self.data, self.reference, self._floor_db())
        for name, peer in PEERS.items():
            if self.options.only and not any(w in name for w in self.options.only):
                continue
            files, error = build(self.options.model, work, name, self.options.patience)
            for runtime, precision in peer.runs:
                title = f"{name}: {runtime} {precision}"
                rival = Rival(title, runtime, precision, self.generator, error=error)
                if error is None and files[runtime, precision].suffix == ".pt2":
                    rival.generator = lg.load(files[runtime, precision])
                elif error is None:
                    file = files[runtime, precision]
                    beside = [file.with_suffix(".bin")] if file.suffix == ".xml" else []
                    rival.artifact = Artifact(runtime, precision, (file, *beside))
                self.attempt(rival)
                if self.options.quality_only:
                    rival.close()
                print(row(rival, self.metric, 0), file=sys.stderr, flush=True)

    def _floor_db(self) -> float:
        assert self.task is not None
        return next(c.value for c in conditions(self.task.floor) if c.metric == self.metric)

    @property
    def metric(self) -> str:
        return "psnr" if "psnr" in self.original.quality else "snr"


def lay_out(
    work: Path, generator: Generator, data: Data, reference: Sequence[torch.Tensor], floor: float
) -> None:
    """What every peer starts from."""
    runtimes.get("openvino").build(generator, work, "fp32")
    write_onnx(generator, work / "generator.onnx")
    write_samples(
        work / "calibration.npz", [[x.numpy() for x in s.inputs] for s in data.calibration]
    )
    pairs = zip(data.held_out, reference, strict=True)
    write_samples(work / "held_out.npz", [[x.numpy() for x in (*s.inputs, r)] for s, r in pairs])
    port = generator.signature.outputs[0]
    span = port.range[1] - port.range[0] if port.kind == "image" and port.range else None
    facts = {"inputs": port_names(generator)[0], "span": span, "floor_db": floor}
    (work / "settings.json").write_text(json.dumps(facts))


def build(
    model: str, work: Path, name: str, patience: float
) -> tuple[dict[tuple[str, str], Path], str | None]:
    """A peer's files by runtime and precision, and None; or why there are none."""
    command = [sys.executable, str(Path(__file__).with_name("peers.py")), model, str(work), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return {}, f"not done in {patience:.0f} s"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {}, said[-1][:160] if said else f"ended with {done.returncode}"
    facts = json.loads((work / name / "built.json").read_text())
    return {(runtime, precision): Path(file) for runtime, precision, file in facts}, None


def resized(generator: Generator, size: int) -> Generator:
    """The same, to be judged and timed at another height, width or length."""
    usual = {
        letter: n
        for port in generator.signature.inputs
        for letter, n, fixed in zip(port.layout, port.typical, port.shape, strict=True)
        if letter in "HWT" and fixed is None
    }

    def port(old: Port) -> Port:
        sizes = zip(old.layout, old.typical, strict=True)
        return dataclasses.replace(
            old, typical=tuple(n * size // usual[k] if k in usual else n for k, n in sizes)
        )

    signature = generator.signature
    made = type(signature)(
        tuple(port(p) for p in signature.inputs), tuple(port(p) for p in signature.outputs)
    )
    return dataclasses.replace(generator, signature=made)


HEAD = (
    "| form | dB | worst | times eager | times plain OpenVINO bf16 | in int8 | file, kB |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def row(candidate: Candidate, metric: str, plain: float) -> str:
    if candidate.error is not None:
        return f"| {candidate.name} | {' '.join(candidate.error.split())[:160]} | | | | | |"
    score = candidate.quality[metric]
    speed = candidate.speedup
    share = candidate.int8_share
    return (
        f"| {candidate.name} | {score['mean']:.2f} | {score['worst']:.2f} "
        f"| {f'{speed:.2f}' if speed else ''} | {f'{speed / plain:.2f}' if speed and plain else ''}"
        f" | {'' if share is None else f'{share:.0%}'} "
        f"| {candidate.entry(1).size_bytes / 1e3:.0f} |"
    )


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
        generator = resized(generator, options.size)
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
    parser.add_argument("--limit", type=int, help="most samples")
    parser.add_argument("--size", type=int, help="height, width or length of inputs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="peers with it in their name")
    parser.add_argument("--patience", type=float, default=600, help="seconds to build one peer")
    parser.add_argument("--seconds", type=float, default=240, help="of timing")
    parser.add_argument("--quality-only", action="store_true", help="peers alone, not timed")
    parser.add_argument("-o", "--out", type=Path)
    sys.exit(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
