import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from leangan.errors import LeanganError
from leangan.measure import latency
from leangan.measure.latency import Timing, Worker, doubt, paired, speedup
from leangan.runtimes import Artifact

FAKE = """
import os, sys, time
import numpy as np

class Session:
    def __init__(self, settings, threads):
        self.settings, self.threads, self.calls = settings, threads, 0
    def run(self, inputs):
        self.calls += 1
        do = self.settings.get(str(self.calls), self.settings.get("always"))
        if do == "sleep":
            time.sleep(0.4)
        if do == "hang":
            time.sleep(60)
        if do == "crash":
            sys.stderr.write("noise\\nthe engine is on fire\\n")
            sys.stderr.flush()
            os._exit(7)
        if do == "raise":
            raise RuntimeError("\\n  Input is 3 pixels short \\n at some.cpp:12")
        if do == "print":
            print("hello from a library")
            os.write(1, b"and from C\\n")
        if do == "allocate":
            np.ones(40 << 20, np.uint8)
        limits = [int(os.environ[k]) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
        return [x * 2 for x in inputs] + [np.array([self.threads, *limits], np.float32)]
    def int8_share(self):
        return self.settings.get("share")

class Fake:
    name = "fake"
    def missing(self):
        return None
    def open(self, artifact, threads):
        if artifact.settings.get("open") == "raise":
            raise ValueError("no such model")
        return Session(artifact.settings, threads)
"""

X = np.arange(6, dtype=np.float32).reshape(1, 6)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A third party's runtime, installed as packages are: module, metadata, entry point."""
    (tmp_path / "their_runtime.py").write_text(FAKE)
    info = tmp_path / "their_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[leangan.runtimes]\nfake = their_runtime:Fake\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda **settings: Artifact("fake", "fp32", (tmp_path / "model.bin",), settings)


def test_arrays_go_through_in_order(fake):
    with Worker(fake(share=0.25), 1) as worker:
        first, second, _ = worker.run([X, -X])
        assert np.array_equal(first, X * 2)
        assert np.array_equal(second, X * -2)
        assert worker.int8_share() == 0.25


def test_threads_are_limited_for_every_library(fake):
    with Worker(fake(), 3) as worker:
        assert worker.run([X])[-1].tolist() == [3, 3, 3]


def test_slow_first_calls_do_not_reach_the_median(fake):
    """Three calls of 0.4 s, as of a runtime that compiles: shown apart, never mixed in."""
    with Worker(fake(**{"1": "sleep", "2": "sleep", "3": "sleep"}), 1) as worker:
        worker.run([X])
        (timing,) = paired([worker], rounds=3)
    assert timing.latency().first >= 400
    assert max(ms for calls in timing.rounds for ms in calls) < 400
    assert timing.steady


def test_prints_of_libraries_do_not_break_the_protocol(fake):
    with Worker(fake(always="print"), 1) as worker:
        for _ in range(3):
            assert np.array_equal(worker.run([X])[0], X * 2)


def test_error_is_one_sentence_and_the_process_goes_on(fake):
    with Worker(fake(**{"2": "raise"}), 1) as worker:
        worker.run([X])
        with pytest.raises(LeanganError, match=r"fake fp32.*Input is 3 pixels short$"):
            worker.run([X])
        assert len(worker.time(2)) == 2


def test_crash_carries_the_last_words(fake):
    with Worker(fake(**{"1": "crash"}), 1) as worker:
        with pytest.raises(LeanganError, match=r"crashed: the engine is on fire$"):
            worker.run([X])
        with pytest.raises(LeanganError, match="on fire"):
            worker.time(1)


def test_timeout_ends_the_process(fake):
    with Worker(fake(**{"1": "hang"}), 1) as worker:
        worker._timeout = 1.0  # not while it starts, which may take longer here
        with pytest.raises(LeanganError, match="no answer for 1 s"):
            worker.run([X])
        assert worker._process.wait(10) != 0


def test_failure_to_open_leaves_no_process(fake, monkeypatch):
    started = []
    popen = subprocess.Popen

    def remember(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(latency.subprocess, "Popen", remember)
    with pytest.raises(LeanganError, match="ValueError: no such model"):
        Worker(fake(open="raise"), 1)
    assert started[0].poll() is not None


def test_unknown_runtime_is_named(fake, tmp_path):
    with pytest.raises(LeanganError, match=r"no runtime 'tpu'.*openvino"):
        Worker(Artifact("tpu", "fp32", (tmp_path / "x",)), 1)


def test_timing_before_running_is_refused(fake):
    with Worker(fake(), 1) as worker:
        with pytest.raises(LeanganError, match="Run every worker once"):
            paired([worker])
        with pytest.raises(LeanganError, match="Nothing was run"):
            worker.time(1)


def test_peak_memory_is_the_artifact_s_own(fake):
    with Worker(fake(), 1) as small, Worker(fake(always="allocate"), 1) as large:
        small.run([X])
        large.run([X])
        # A process starts with its parent's peak in ru_maxrss; this one is far above 40 MB.
        assert small.peak_memory() < 20 << 20
        assert large.peak_memory() >= 36 << 20  # a few pages of it may be reused ones


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_dies_with_its_parent(fake, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, threading, time, numpy as np\n"
        "from pathlib import Path\n"
        "from leangan.runtimes import Artifact\n"
        "from leangan.measure.latency import Worker\n"
        "w = Worker(Artifact('fake', 'fp32', (Path('m'),), {'1': 'hang'}), 1)\n"
        "threading.Thread(target=w.run, args=([np.ones(1)],), daemon=True).start()\n"
        "time.sleep(0.5)\n"
        "print(w._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


class Scripted:
    """Stands in for a Worker: each call takes what the script says, on a clock of its own."""

    def __init__(self, name, ms, log, clock):
        self.name, self.ms, self.log, self.clock = name, ms, log, clock
        self.first_ms = 9999.0

    def time(self, calls):
        self.log.append((self.name, calls))
        ms = [self.ms(self.clock[0]) for _ in range(calls)]
        self.clock[0] += sum(ms) / 1e3
        return ms


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    return now


def test_ratio_is_paired_when_the_machine_slows_down(clock):
    """A machine that gets steadily slower must not move the ratio of 2."""
    log = []
    workers = [
        Scripted(n, lambda t, k=k: k * (10 + t), log, clock) for n, k in (("a", 2), ("b", 1))
    ]
    a, b = paired(workers, rounds=9)
    assert speedup(a, b) == pytest.approx(2, rel=0.03)
    assert speedup(b, a) == pytest.approx(0.5, rel=0.03)
    assert len(a.rounds) == len(b.rounds) == 9


def test_fast_ones_get_more_calls_and_orders_change(clock):
    log = []
    workers = [
        Scripted(n, lambda t, k=k: k, log, clock) for n, k in (("a", 100), ("b", 7), ("c", 1))
    ]
    timings = paired(workers, rounds=6)
    per_round = [len(t.rounds[0]) for t in timings]
    assert per_round == sorted(per_round)
    assert per_round[0] < per_round[-1] <= 30
    order = [name for name, _ in log[-18:]]
    rounds = {"".join(order[i : i + 3]) for i in range(0, 18, 3)}
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(rounds) == 6


def test_budget_bounds_slow_networks(clock):
    log = []
    workers = [Scripted(n, lambda t: 2000.0, log, clock) for n in "ab"]
    timings = paired(workers, seconds_budget=20)
    assert clock[0] <= 20
    assert len(timings[0].rounds) >= 2
    clock[0] = 0.0
    workers = [Scripted(n, lambda t: 60_000.0, log, clock) for n in "ab"]
    timings = paired(workers, seconds_budget=20)
    assert clock[0] == 240  # two calls each, the least that there is to say
    assert [len(t.rounds) for t in timings] == [1, 1]
    assert not timings[0].steady


def test_no_more_rounds_than_the_question_needs(clock):
    log = []
    workers = [
        Scripted(n, lambda t, k=k: k * (10 + t), log, clock) for n, k in (("a", 2), ("b", 1))
    ]
    a, b = paired(workers, enough=lambda timings: doubt(*timings) < 0.02)
    assert len(a.rounds) == len(b.rounds) == 5  # fewer say nothing of how sure they are
    a, b = paired(workers, enough=lambda timings: doubt(*timings) < 0)
    assert len(a.rounds) == 15


def test_doubt_is_the_error_that_medians_have():
    rng = np.random.default_rng(0)
    quiet = Timing(((10.0,),) * 9, 50.0, True)
    noisy = [Timing(tuple((10 / r,) for r in rng.normal(2, 0.1, 9)), 50, True) for _ in range(500)]
    spread = float(np.std([speedup(quiet, n) for n in noisy])) / 2
    assert np.mean([doubt(quiet, n) for n in noisy]) == pytest.approx(spread, rel=0.2)
    assert doubt(quiet, quiet) == 0


def test_warm_up_goes_on_while_calls_get_faster(clock):
    log = []
    falling = Scripted("a", lambda t: max(5.0, 1000.0 - 400.0 * t), log, clock)
    (timing,) = paired([falling], rounds=2)
    assert timing.steady
    assert timing.latency().p90 == 5.0


def test_one_disturbed_round_does_not_move_the_speedup():
    quiet = Timing(((10.0,),) * 5, 50.0, True)
    other = Timing(((5.0,), (5.0,), (500.0,), (5.0,), (5.0,)), 50.0, True)
    assert speedup(quiet, other) == 2
    assert quiet.latency().p50 == 10
    assert quiet.latency().first == 50
