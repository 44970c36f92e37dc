"""Time artifacts, each in a process of its own, so that a ratio between two of them can be trusted.

Calls are warmed up until steady and the candidates are interleaved round by round, in changing
order: what disturbs the machine for a second disturbs all of them alike, and a speed-up is the
median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from leangan.errors import LeanganError
from leangan.measure.entry import Latency
from leangan.runtimes.base import Arrays, Artifact

_ROUND_MS = 150.0
"""About how long one candidate runs in one round."""
_MOST_CALLS = 30
_WARM_CALLS = 5
_FEWEST_ROUNDS = 5
"""Before that many nothing is said of how sure a speed-up is."""
_STEADY = 0.95
"""Warm-up ends when the median of some calls is no longer below this share of those before."""


class Worker:
    """One artifact opened in one fresh process.

    Use it as a context manager; the process also ends when this one does. All methods raise
    LeanganError with the process's own sentence when it fails, crashes or takes too long.
    """

    def __init__(self, artifact: Artifact, threads: int, *, timeout: float = 600.0) -> None:
        """Start the process and open the artifact.

        Args:
            artifact: whose files are on disk.
            threads: the most that any library in the process may use.
            timeout: seconds that a single request may take.
        """
        self.artifact = artifact
        self.threads = threads
        self.first_ms: float | None = None
        """Milliseconds of the very first run, None before it."""
        self._timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="leangan-worker-")
        self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: a file of the working folder must not pass for a library.
            [sys.executable, "-P", "-m", "leangan.runtimes.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_thread_limits(threads)},
            text=True,
            encoding="utf-8",
        )
        self._replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            reply = self._ask({"open": artifact.to_json(), "threads": threads})
        except BaseException:
            self.close()
            raise
        self.open_seconds: float = reply["seconds"]

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once. Float32 arrays in the signature's order and layouts, in and out."""
        source, target = (Path(self._folder.name) / name for name in ("in.npz", "out.npz"))
        np.savez(source, *inputs)
        reply = self._ask({"run": str(source), "out": str(target)})
        self.first_ms = reply.get("first_ms", self.first_ms)
        with np.load(target, allow_pickle=False) as file:
            return [file[f"arr_{i}"] for i in range(len(file.files))]

    def time(self, calls: int) -> list[float]:
        """Milliseconds of each of `calls` more runs on the last inputs."""
        return list(self._ask({"time": calls})["ms"])

    def int8_share(self) -> float | None:
        """See `Session.int8_share`; known once something was run."""
        share = self._ask({"share": True})["int8_share"]
        return None if share is None else float(share)

    def layer_times(self) -> dict[str, float]:
        """See `Session.layer_times`; known once something was run."""
        return dict(self._ask({"layers": True})["layer_ms"])

    def peak_memory(self) -> int:
        """Peak resident bytes since just before the artifact was opened, on top of what was."""
        return int(self._ask({"memory": True})["peak_bytes"])

    def close(self) -> None:
        """End the process, at once if it does not by itself."""
        try:
            if self._process.poll() is None:
                self._send({"quit": True})
                self._process.wait(timeout=2)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            # A pipe whose reader is gone still holds what could not be flushed.
            with contextlib.suppress(OSError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._log.close()
            self._folder.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._send(request)
            line = self._replies.get(timeout=self._timeout)
        except (OSError, ValueError):
            line = None
        except queue.Empty:
            self._process.kill()
            raise LeanganError(
                f"{self._title()} gave no answer for {self._timeout:.0f} s and was ended. "
                "Try a smaller input, or leave this runtime out."
            ) from None
        if line is None:
            raise LeanganError(f"{self._title()} crashed: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LeanganError(f"{self._title()} failed: {reply['error']}")
        return reply

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._replies.put(line)
        self._replies.put(None)

    def _title(self) -> str:
        return f"{self.artifact.runtime} {self.artifact.precision} ({self.artifact.path.name})"

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else f"its process ended with code {code} and said nothing."


def _thread_limits(threads: int) -> dict[str, str]:
    """Every library reads another variable, and reads it once, when it is loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Inductor compiles in a pool of processes unless it is told one.
    return {**dict.fromkeys(names, str(threads)), "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass(frozen=True)
class Timing:
    """What one candidate took, round by round."""

    rounds: tuple[tuple[float, ...], ...]
    """Milliseconds of the calls of each round; round i of all candidates is one stretch of time."""
    first: float
    """Milliseconds of the first call of all."""
    steady: bool
    """False when the time was up before the calls had stopped getting faster."""

    def latency(self) -> Latency:
        """Median and 90th percentile over all calls but the first."""
        calls = [ms for r in self.rounds for ms in r]
        p50, p90 = np.percentile(calls, (50, 90))
        return Latency(float(p50), float(p90), self.first)


def speedup(baseline: Timing, other: Timing) -> float:
    """How many times faster `other` is: the median over rounds of the ratio within a round.

    Both must come from one call of `paired`.
    """
    return float(np.median(_ratios(baseline, other)))


def doubt(baseline: Timing, other: Timing) -> float:
    """Standard error of their `speedup`, as a share of it; inf where there were too few rounds.

    Of a median, by the median distance from it, as for normal errors: a round that was disturbed
    counts as one.
    """
    ratios = _ratios(baseline, other)
    if len(ratios) < _FEWEST_ROUNDS:
        return math.inf
    middle = np.median(ratios)
    deviation = 1.4826 * np.median(np.abs(ratios - middle))
    return float(1.2533 * deviation / math.sqrt(len(ratios)) / middle)


def _ratios(baseline: Timing, other: Timing) -> np.ndarray:
    pairs = zip(baseline.rounds, other.rounds, strict=True)
    return np.array([np.median(a) / np.median(b) for a, b in pairs])


def paired(
    workers: Sequence[Worker],
    *,
    rounds: int = 15,
    seconds_budget: float = 30.0,
    enough: Callable[[Sequence[Timing]], bool] = lambda timings: False,
) -> list[Timing]:
    """Time candidates side by side.

    Args:
        workers: each must have run once, on inputs of the same size.
        rounds: the most rounds; fewer when the time is up, but always one.
        seconds_budget: for all of it, up to half of it for warming up. Only networks so slow
            that two calls of each take longer exceed it.
        enough: asked after each round whether what was seen so far answers the question.

    Returns:
        One Timing per worker, in order, all with the same number of rounds.

    Raises:
        LeanganError: a worker was not run yet, or failed.
    """
    start = time.perf_counter()
    for worker in workers:
        if worker.first_ms is None:
            raise LeanganError("Run every worker once before timing it, to say on what inputs.")
    share = seconds_budget / 2 / max(1, len(workers))
    warm = [_warm_up(worker, share) for worker in workers]
    calls = [max(1, min(_MOST_CALLS, round(_ROUND_MS / max(ms, 1e-3)))) for ms, _ in warm]
    times: list[list[tuple[float, ...]]] = [[] for _ in workers]
    seen: list[Timing] = []
    for number in range(rounds):
        begun = time.perf_counter()
        for i in _order(number, len(workers)):
            # After the others a cache is cold and a clock may be slow: the first call of several
            # speaks of them and is dropped.
            extra = calls[i] > 2
            times[i].append(tuple(workers[i].time(calls[i] + extra)[extra:]))
        seen = [
            Timing(tuple(t), worker.first_ms or 0.0, steady)
            for t, worker, (_, steady) in zip(times, workers, warm, strict=True)
        ]
        now = time.perf_counter()
        if now - start + (now - begun) > seconds_budget or enough(seen):
            break
    return seen


def _order(number: int, count: int) -> list[int]:
    """Rotated every round, and reversed every other one: nobody always follows the same one."""
    rotated = [(i + number) % count for i in range(count)]
    return rotated[::-1] if number % 2 else rotated


def _warm_up(worker: Worker, seconds: float) -> tuple[float, bool]:
    """Call until the calls stop getting faster; the last median in ms, and whether they did."""
    start = time.perf_counter()
    before = float("inf")
    calls = 1
    while True:
        ms = worker.time(calls)
        median = float(np.median(ms))
        if median >= _STEADY * before:
            return median, True
        left = seconds - (time.perf_counter() - start)
        # A median of few calls is an outlier's, but slow networks have no time for more.
        if sum(ms) > left * 1e3:
            return median, False
        before = median
        calls = int(max(1, min(_WARM_CALLS, left * 1e3 / 4 / max(median, 1e-3))))
