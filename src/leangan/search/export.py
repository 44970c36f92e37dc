"""One generator into one runtime's form, proved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from leangan import runtimes
from leangan.errors import UsageError
from leangan.files import atomic_folder
from leangan.generator import Generator
from leangan.measure.latency import Worker
from leangan.runtimes.base import Artifact, OnRequest
from leangan.runtimes.check import Agreement, agree
from leangan.search.compare import runtime_names


def export(
    generator: Generator,
    out: Path | str,
    *,
    runtime: str,
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[Artifact, Sequence[Agreement]]:
    """Write a generator in the form that `runtime` takes, and run it at three sizes.

    Where the runtime's files do not run on this system, they are written and not run.

    Args:
        generator: float or quantized.
        out: the folder for the files.
        runtime: a name of `leangan.runtimes`. Where its files hold one size, that is the
            typical one.
        precision: what it computes in; the most exact one when left out.
        threads: CPU threads of the trial runs; all cores when left out.

    Returns:
        The artifact in `out`, and how it compares with the generator at each size: nothing is
        written when it does not, and at no size where it could not be run.

    Raises:
        BackendMissing: the runtime is not installed.
        UsageError: this machine's CPU does not run that precision.
        LeanganError: the file does not compute the same; the size is named.
    """
    (name,) = runtime_names([runtime], to_run=False)
    backend = runtimes.get(name)
    generator = runtimes.fitting(generator, backend)
    quantized = generator.quantized
    choices = backend.precisions(quantized=quantized)
    if isinstance(backend, OnRequest):
        choices += backend.on_request(quantized=quantized)
    wanted = precision or next(iter(choices), None)
    if wanted is None or wanted not in choices:
        kind = "an 8-bit" if quantized else "a float"
        raise UsageError(
            f"{name} does not run {kind} generator in {wanted or 'any precision'} on this machine"
            + (f"; choose from {', '.join(choices)}." if choices else ".")
        )
    out = Path(out)
    with atomic_folder(out) as folder:
        built = backend.build(generator, folder, wanted)
        found: list[Agreement] = []
        if backend.runs_here:
            with Worker(built, threads or os.cpu_count() or 1) as worker:
                found = agree(generator, built, worker)
    files = tuple(out / file.relative_to(folder) for file in built.files)
    return Artifact(name, wanted, files, built.settings), found
