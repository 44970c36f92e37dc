"""Where candidates are tried: the original, the samples, the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from leangan import runtimes
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.measure.image import mean_shift
from leangan.measure.latency import Timing, doubt, paired, speedup
from leangan.search.candidate import Candidate
from leangan.tasks.base import Data, Score, Task
from leangan.tasks.images import from_port
from leangan.tasks.pictures import flat_samples
from leangan.tasks.quality import score

Progress = Callable[..., None]
"""progress(message, done=None, total=None)."""

_HELPS = 1.02
"""A change that makes things less than 2% faster is noise."""
_SURE = 3.0
"""Standard errors that a speed-up must lie away from what is asked for it to be clear."""
_ROUGHLY, _WELL = 0.03, 0.015
"""Standard errors at which speed-ups are known: of all candidates, and of those that may win."""
_FINAL = 1.5
"""Who is so many times slower than the fastest, in few rounds, is not the fastest."""


class Lab:
    """Tries candidates beside the original; a context manager that leaves no process behind."""

    def __init__(
        self,
        generator: Generator,
        task: Task | None,
        data: Data,
        threads: int,
        progress: Progress,
        original: Candidate | None = None,
    ) -> None:
        """Nothing is run before the block is entered.

        Args:
            generator: the original.
            task: judges the candidates; None when only their speed matters.
            data: its held-out samples are what they are judged on.
            threads: of every candidate's process.
            progress: is told what goes on.
            original: what they are judged against and timed beside; the generator in PyTorch
                eager float when left out.
        """
        self.generator, self.task, self.data = generator, task, data
        self.threads, self.progress = threads, progress
        self.candidates: list[Candidate] = []
        self.notes: list[str] = []
        self.original = original or Candidate("original", "torch", "fp32", generator, plain=True)
        self.reference: list[Tensor] = []
        self._flat = flat_samples(generator) if task is not None else ()
        self._flat_reference: list[Tensor] = []
        self._folder = tempfile.TemporaryDirectory(prefix="leangan-")

    def __enter__(self) -> Lab:
        torch.set_num_threads(self.threads)
        try:
            self._run_original()
        except BaseException:  # the block is never entered then, so nobody else would clean up
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for candidate in (self.original, *self.candidates):
            candidate.close()
        self._folder.cleanup()

    @property
    def power(self) -> float:
        """What noise is compared with.

        The output's squared range for pictures, as in PSNR; its mean square for anything else, as
        in a signal-to-noise ratio.
        """
        port = self.generator.signature.outputs[0]
        if port.kind == "image" and port.range is not None:
            return (port.range[1] - port.range[0]) ** 2
        return float(torch.stack([r.square().mean() for r in self.reference]).mean())

    def attempt(self, candidate: Candidate) -> Candidate:
        """Build one that is not open yet, prove and judge it; it is kept, also when it failed."""
        self.progress(f"Trying {candidate.name}")
        self.candidates.append(candidate)
        if candidate.worker is None and candidate.error is None:
            candidate.build(Path(self._folder.name), self.threads)
        candidate.prove()
        self._run(candidate)
        self._judge(candidate)
        return candidate

    def pays(self, new: Candidate, old: Candidate, *, seconds: float = 5.0) -> bool:
        """Whether `new` is faster than `old` by more than noise; not when one does not run."""
        if new.worker is None or old.worker is None:
            return False

        def clear(timings: Sequence[Timing]) -> bool:
            away = abs(speedup(*timings) / _HELPS - 1)
            return away > _SURE * doubt(*timings)

        timings = paired([old.worker, new.worker], seconds_budget=seconds, enough=clear)
        return speedup(*timings) >= _HELPS

    def behind(self, slow: Candidate, fast: Candidate) -> float:
        """How many times as long `slow` takes, by a few calls; 1 when one does not run."""
        if slow.worker is None or fast.worker is None:
            return 1.0
        timings = paired([slow.worker, fast.worker], rounds=3, seconds_budget=3.0)
        return speedup(*timings)

    def opened(self, candidate: Candidate) -> Candidate:
        """Built for its speed alone: neither proved nor judged nor kept. The caller closes it."""
        candidate.build(Path(self._folder.name), self.threads)
        candidate.run((), (), self.generator.example())
        return candidate

    def time(self, *, seconds: float = 40.0) -> None:
        """Time what runs, but for simulators, beside the original, then the fastest once more.

        Slow ones leave few rounds for all. Who is the fastest is told by many rounds, so those
        that may be it meet again without the others.
        """
        self.progress("Timing the candidates beside the original")
        running = [
            c
            for c in (self.original, *self.candidates)
            if c.worker is not None and runtimes.get(c.runtime).timed
        ]
        self._time(running, seconds * 0.4, _ROUGHLY)
        fastest = max(c.speedup or 0 for c in running)
        finalists = [
            c for c in running if c is not self.original and (c.speedup or 0) > fastest / _FINAL
        ]
        self.progress("Timing the fastest beside the original")
        self._time([self.original, *finalists], seconds * 0.6, _WELL)
        for candidate in running:
            best = _best_plain_float([c for c in running if c.runtime == candidate.runtime])
            if best is not None and candidate is not best and not candidate.plain:
                candidate.slower_than_float = (candidate.speedup or 0) < (best.speedup or 0)

    def _time(self, candidates: Sequence[Candidate], seconds: float, known: float) -> None:
        """Interleaved; the first of them is what the others' speed-ups are against.

        Args:
            candidates: all of them running.
            seconds: at most.
            known: standard error, as a share, at which a speed-up needs no more rounds.
        """

        def enough(timings: Sequence[Timing]) -> bool:
            return all(doubt(timings[0], t) < known for t in timings)

        workers = [c.worker for c in candidates if c.worker]
        timings = paired(workers, seconds_budget=seconds, enough=enough)
        for candidate, timing in zip(candidates, timings, strict=True):
            candidate.latency = timing.latency()
            candidate.speedup = speedup(timings[0], timing)

    def _run_original(self) -> None:
        self.progress("Running the original")
        self.original.build(Path(self._folder.name), self.threads)
        self.original.prove()
        self._run(self.original)
        if self.original.error is not None:
            raise LeanganError(self.original.error)
        self.reference = self.original.outputs
        for sample, output in zip(self.data.held_out, self.reference, strict=True):
            if not bool(torch.isfinite(output).all()):
                raise LeanganError(
                    f"{self.generator.name}, still in float, puts out NaN or Inf for "
                    f"{sample.name}; check that file and the weights."
                )
        self._flat_reference = self.original.flat_outputs
        self._judge(self.original)

    def _run(self, candidate: Candidate) -> None:
        candidate.run(self.data.held_out, self._flat, self.generator.example())

    def _judge(self, candidate: Candidate) -> None:
        if self.task is not None and candidate.outputs:
            samples = self.data.held_out
            scores = self.task.quality(self.generator, samples, self.reference, candidate.outputs)
            if self._flat:
                scores["flat_shift"] = self._flat_shift(candidate)
            candidate.quality = {name: score.to_json() for name, score in scores.items()}

    def _flat_shift(self, candidate: Candidate) -> Score:
        port = self.generator.signature.outputs[0]
        pairs = zip(self._flat_reference, candidate.flat_outputs, strict=True)
        return score(
            "flat_shift", [mean_shift(from_port(a, port), from_port(b, port)) for a, b in pairs]
        )


def _best_plain_float(candidates: Sequence[Candidate]) -> Candidate | None:
    plain = [c for c in candidates if c.plain and c.speedup]
    return max(plain, key=lambda c: c.speedup or 0, default=None)
