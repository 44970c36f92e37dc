"""One version of a generator that might be delivered: built, opened, proved, judged, timed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leangan import runtimes
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.cost import macs
from leangan.measure.entry import Entry, Latency
from leangan.measure.latency import Worker
from leangan.measure.size import file_bytes, zipped_bytes
from leangan.runtimes.base import Artifact, Runtime
from leangan.runtimes.check import agree
from leangan.tasks.base import Sample


@dataclass
class Candidate:
    """Grows as it goes through the stages; `error` says at which it fell."""

    name: str
    runtime: str
    precision: str
    generator: Generator
    """What is built, with every rewrite and quantization in it."""
    plain: bool = False
    """The original's graph as it is, in float: what users have without us."""
    artifact: Artifact | None = None
    worker: Worker | None = None
    outputs: list[Tensor] = field(default_factory=list)
    """On the held-out samples, the first output of each."""
    flat_outputs: list[Tensor] = field(default_factory=list)
    """On pictures of one colour, where the task has them."""
    quality: dict[str, dict[str, float | int]] = field(default_factory=dict)
    latency: Latency | None = None
    speedup: float | None = None
    int8_share: float | None = None
    peak_memory: int | None = None
    slower_than_float: bool = False
    error: str | None = None

    def build(self, folder: Path, threads: int) -> None:
        """Write the files and open them in a fresh process.

        A candidate that fails is kept as one that failed, with the reason.
        """
        place = folder / str(len(list(folder.iterdir())))
        place.mkdir()
        try:
            if self.artifact is None:
                runtime = runtimes.get(self.runtime)
                self.artifact = _build(runtime, self.generator, place, self.precision)
            self.worker = Worker(self.artifact, threads)
        except LeanganError as error:
            self.fail(error)

    def prove(self) -> None:
        """Compare what was built with its generator, at three sizes."""
        if self.worker is None or self.artifact is None:
            return
        try:
            agree(self.generator, self.artifact, self.worker)
        except LeanganError as error:
            self.fail(error)

    def run(
        self, samples: Sequence[Sample], flat: Sequence[Sample], timed: tuple[Tensor, ...]
    ) -> None:
        """Run the samples, keep what comes out, and ask the process what it knows of itself.

        Args:
            samples: held-out ones.
            flat: pictures of one colour.
            timed: run last, since timing goes on with the last inputs.
        """
        if self.worker is None:
            return
        try:
            self.outputs = [self._first_output(s.inputs) for s in samples]
            self.flat_outputs = [self._first_output(s.inputs) for s in flat]
            self._first_output(timed)
            self.int8_share = self.worker.int8_share()
            self.peak_memory = self.worker.peak_memory()
        except LeanganError as error:
            self.fail(error)

    def _first_output(self, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self.worker is not None
        return torch.from_numpy(self.worker.run([x.numpy() for x in inputs])[0])

    def fail(self, error: LeanganError) -> None:
        """Note why, and end the process."""
        self.error = str(error)
        self.outputs = []
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def entry(self, threads: int, zipped: int) -> Entry:
        """As a line of the table; `zipped` are the bytes of its files when zipped."""
        return Entry(
            name=self.name,
            runtime=self.runtime,
            precision=self.precision,
            threads=threads,
            latency_ms=self.latency,
            speedup=self.speedup,
            size_bytes=file_bytes(self.artifact) if self.artifact else 0,
            size_bytes_zip=zipped,
            params=self.generator.params,
            macs=macs(self.generator),
            int8_share=self.int8_share,
            peak_memory_bytes=self.peak_memory,
            quality=self.quality,
            slower_than_float=self.slower_than_float,
            error=self.error,
        )


def entries(candidates: Sequence[Candidate], threads: int) -> list[dict[str, Any]]:
    """The ENTRYs of report.json, in order; zipping takes longest and is done by all threads."""
    with ThreadPoolExecutor(threads) as pool:
        zipped = pool.map(lambda c: zipped_bytes(c.artifact) if c.artifact else 0, candidates)
        made = [c.entry(threads, size) for c, size in zip(candidates, zipped, strict=True)]
    return [entry.to_json() for entry in made]


def _build(runtime: Runtime, generator: Generator, folder: Path, precision: str) -> Artifact:
    try:
        return runtime.build(generator, folder, precision)
    except LeanganError:
        raise
    except Exception as error:  # a library may refuse a network with any exception
        raise LeanganError(f"{runtime.name} {precision} cannot be built: {error}") from error
