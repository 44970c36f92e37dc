"""Where `compress` tries its candidates, with the quantizers of others beside them."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peers import PEERS, write_samples

import leangan as lg
from leangan import runtimes
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.measure.size import file_bytes
from leangan.report.words import conditions
from leangan.runtimes.base import Artifact
from leangan.runtimes.onnx_file import port_names, write_onnx
from leangan.search.candidate import Candidate
from leangan.search.lab import Lab
from leangan.tasks.base import Data

PLAIN = "openvino bf16"
"""What users have without us: compress' candidate of that name."""


@dataclass
class Rival(Candidate):
    """Of others: judged on the samples alone, however far its output is from the original's."""

    ours: bool = False
    """Whether our own runtimes build it."""

    def build(self, folder: Path, threads: int) -> None:
        self.ours = self.artifact is None
        super().build(folder, threads)

    def prove(self) -> None:
        if self.ours:
            super().prove()


class Arena(Lab):
    """The Lab of `compress`, which the rivals join before the clock starts."""

    options: argparse.Namespace
    rivals: list[Candidate]
    ours: list[Candidate]
    rows: list[str]

    def time(self, *, seconds: float = 40.0) -> None:
        self.ours = list(self.candidates)
        for candidate in self.ours:
            print(row(candidate, self.metric, 0), file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            self.invite(self.options.work or Path(folder))
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
        work.mkdir(parents=True, exist_ok=True)
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
    """What every peer starts from; what lies there already must be for the same samples."""
    port = generator.signature.outputs[0]
    span = port.range[1] - port.range[0] if port.kind == "image" and port.range else None
    facts = {
        "inputs": port_names(generator)[0],
        "span": span,
        "floor_db": floor,
        "samples": [s.name for s in (*data.calibration, *data.held_out)],
        "sizes": [list(p.typical) for p in generator.signature.inputs],
    }
    settings = work / "settings.json"
    if settings.exists():
        if json.loads(settings.read_text()) != facts:
            raise LeanganError(f"{work} is of other samples; give another folder with --work.")
        return
    runtimes.get("openvino").build(generator, work, "fp32")
    write_onnx(generator, work / "generator.onnx")
    write_samples(
        work / "calibration.npz", [[x.numpy() for x in s.inputs] for s in data.calibration]
    )
    pairs = zip(data.held_out, reference, strict=True)
    write_samples(work / "held_out.npz", [[x.numpy() for x in (*s.inputs, r)] for s, r in pairs])
    settings.write_text(json.dumps(facts))


def build(
    model: str, work: Path, name: str, patience: float
) -> tuple[dict[tuple[str, str], Path], str | None]:
    """A peer's files by runtime and precision, and None; or why there are none."""
    known = work / name / "built.json"
    if not known.exists():
        shutil.rmtree(known.parent, ignore_errors=True)
        error = _build(model, work, name, patience)
        if error is not None:
            known.parent.mkdir(exist_ok=True)
            known.write_text(json.dumps(error))
    facts = json.loads(known.read_text())
    if isinstance(facts, str):
        return {}, facts
    return {(runtime, precision): Path(file) for runtime, precision, file in facts}, None


def _build(model: str, work: Path, name: str, patience: float) -> str | None:
    script = Path(__file__).resolve().with_name("peers.py")
    model = str(Path(model).resolve()) if Path(model).exists() else model
    command = [sys.executable, str(script), model, str(work.resolve()), name]
    try:
        # ONNX Runtime leaves weights of its own where it runs, and does not come back for them.
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=patience, cwd=scratch
            )
    except subprocess.TimeoutExpired:
        return f"not done in {patience:.0f} s"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return None if not done.returncode else (said or [f"ended with {done.returncode}"])[-1][:160]


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
    size = file_bytes(candidate.artifact) if candidate.artifact else 0
    return (
        f"| {candidate.name} | {score['mean']:.2f} | {score['worst']:.2f} "
        f"| {f'{speed:.2f}' if speed else ''} | {f'{speed / plain:.2f}' if speed and plain else ''}"
        f" | {'' if share is None else f'{share:.0%}'} "
        f"| {size / 1e3:.0f} |"
    )
