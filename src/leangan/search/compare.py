"""Two models side by side, or one model in every runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leangan import runtimes, sources, tasks
from leangan.archive import open_archive
from leangan.errors import BackendMissing, LeanganError, UsageError
from leangan.generator import Generator
from leangan.report.json_report import finite
from leangan.runtimes.base import Artifact
from leangan.search.candidate import Candidate, entries
from leangan.search.data import data_path
from leangan.search.lab import Lab, Progress
from leangan.tasks.base import Data

_DEPLOYED = (".xml", ".onnx")


@dataclass(frozen=True)
class Model:
    """Something that can be run: a generator, in a deployed form where it has one."""

    name: str
    generator: Generator
    artifact: Artifact | None

    def candidate(self) -> Candidate:
        """Ready to be tried; without a deployed form, in PyTorch eager float."""
        if self.artifact is None:
            return Candidate(self.name, "torch", "fp32", self.generator, plain=True)
        runtime, precision = self.artifact.runtime, self.artifact.precision
        return Candidate(self.name, runtime, precision, self.generator, artifact=self.artifact)


def open_model(source: Any, **loading: Any) -> Model:
    """Open a folder that compress left, a deployed file in it, or anything that `load` takes.

    Raises:
        LeanganError: it is none of these, its files are not complete, or its runtime is missing.
    """
    if isinstance(source, Generator):
        return Model(source.name, source, None)
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and not sources.saved_model.accepts(path):
            return _deployed(path, None)
        if path.suffix in _DEPLOYED and path.is_file():
            return _deployed(_result_folder(path), path)
    generator = sources.load(source, **loading)
    return Model(str(source) if isinstance(source, str | Path) else generator.name, generator, None)


def evaluate(
    a: Any,
    b: Any,
    data: Path | str | None,
    *,
    threads: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Compare two models: speed, size, memory, and the quality of `b` judged against `a`.

    Args:
        a: the reference; whatever `open_model` takes.
        b: what is judged, likewise. It must take the same inputs.
        data: folder of typical inputs; None for generators that start from noise.
        threads: CPU threads to measure on; all cores when left out.
        seed: of the samples.
        limit: the most samples, 48 when left out; the held-out third of them is used.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`, for both.

    Returns:
        `{"a": ENTRY, "b": ENTRY, "quality": {metric: {"mean", "worst", "n"}}}`, see
        docs/report.md. The speed-up of both is against `a`.
    """
    say = progress or _silent
    say("Loading the models")
    first, second = (open_model(x, **loading) for x in (a, b))
    _same_inputs(first, second)
    task = tasks.infer(first.generator)
    samples = task.data(first.generator, data_path(data), limit=limit or 48, seed=seed)
    with Lab(
        first.generator, task, samples, threads or os.cpu_count() or 1, say, first.candidate()
    ) as lab:
        candidate = lab.attempt(second.candidate())
        if candidate.error:
            raise LeanganError(candidate.error)
        lab.time()
        rows = entries((lab.original, candidate), lab.threads)
    return dict(finite({"a": rows[0], "b": rows[1], "quality": rows[1]["quality"]}))


def bench(
    source: Any,
    on: Sequence[str] | None = None,
    *,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Time one model, as it is, in every runtime and precision, beside PyTorch eager float.

    Args:
        source: whatever `leangan.load` takes.
        on: names of runtimes; all that are installed when left out, but for those that compile
            for minutes. With one whose files hold one size, everything is timed at that.
        threads: CPU threads to measure on; all cores when left out.
        seed: of the random inputs.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`.

    Returns:
        `{"model": ..., "environment": {...}, "entries": [ENTRY...]}`, the original first.
    """
    from leangan.measure.environment import environment

    say = progress or _silent
    names = runtime_names(on)
    say("Loading the model")
    model = open_model(source, **loading)
    generator = model.generator
    for name in names:
        generator = runtimes.fitting(generator, runtimes.get(name))
    quantized = generator.quantized
    workers = threads or os.cpu_count() or 1
    with Lab(generator, None, Data((), ()), workers, say) as lab:
        for name in names:
            for precision in runtimes.get(name).precisions(quantized=quantized):
                if (name, precision) != ("torch", "fp32"):
                    title = f"{name} {precision}"
                    lab.attempt(Candidate(title, name, precision, generator, plain=not quantized))
        lab.time()
        rows = entries((lab.original, *lab.candidates), workers)
    return dict(finite({"model": model.name, "environment": environment(workers), "entries": rows}))


def runtime_names(wanted: Sequence[str] | None, *, to_run: bool = True) -> list[str]:
    """The runtimes to use: all installed ones that are tried by default.

    Args:
        wanted: names, None for those.
        to_run: whether what they write will be run; without it, writing is enough.

    Raises:
        UsageError: there is no such runtime, or its files do not run on this system.
        BackendMissing: it is not installed; the pip command is named.
    """
    if wanted is None:
        return [r.name for r in runtimes.available() if r.by_default]
    for name in wanted:
        missing = runtimes.get(name).missing()
        if missing:
            raise BackendMissing(f"{name} cannot be used here; what it needs: {missing}")
        if to_run and not runtimes.get(name).runs_here:
            raise UsageError(
                f"The files of {name} do not run on this system, so nothing can be measured of "
                f"them here. Write one with leangan export --to {name}."
            )
    return list(dict.fromkeys(wanted))


def _silent(message: str, done: int | None = None, total: int | None = None) -> None:
    pass


def _same_inputs(a: Model, b: Model) -> None:
    if len(a.generator.signature.inputs) != len(b.generator.signature.inputs):
        raise UsageError(
            f"{a.name} takes {len(a.generator.signature.inputs)} inputs and {b.name} "
            f"{len(b.generator.signature.inputs)}: they cannot be compared."
        )
    for p, q in zip(a.generator.signature.inputs, b.generator.signature.inputs, strict=True):
        if p.layout != q.layout or p.range != q.range:
            raise UsageError(
                f"{a.name} and {b.name} take different inputs: {p.name} ({p.layout}, values "
                f"{p.range}) against {q.name} ({q.layout}, values {q.range})."
            )


def _result_folder(path: Path) -> Path:
    """The folder around a deployable file that holds its generator."""
    for folder in path.resolve().parents[:3]:
        if (folder / "generator.pt2").is_file():
            return folder
    raise LeanganError(
        f"{path} does not say what its inputs mean; keep the generator.pt2 that compress wrote "
        "in its folder, or name the folder."
    )


def _deployed(folder: Path, path: Path | None) -> Model:
    """The file that the folder's report delivered, or the one named by `path`."""
    for name in ("report.json", "generator.pt2"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is no folder that leangan compress left: no {name} in it.")
    report = json.loads((folder / "report.json").read_text("utf-8"))
    entries = [report["delivered"], *report["candidates"]]
    kept = [e for e in entries if e and e["file"] and not e["error"]]
    if path is not None:
        kept = [e for e in kept if (folder / e["file"]).resolve() == path.resolve()]
    if not kept:
        raise UsageError(f"The report in {folder} knows of no such deployable file.")
    runtime, precision, file = (kept[0][k] for k in ("runtime", "precision", "file"))
    runtime_names([runtime])
    files = sorted((folder / file).parent.iterdir(), key=lambda f: f.name != Path(file).name)
    if not (folder / file).exists():
        raise LeanganError(f"{folder / file} is missing, though the report lists it.")
    artifact = Artifact(runtime, precision, tuple(files))
    return Model(folder.name, open_archive(folder / "generator.pt2"), artifact)
