"""The lab: what fails is kept and said, and no process stays behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from task_nets import Smooth, Twice, image_generator
from torch import nn

from leangan import runtimes, tasks
from leangan.errors import LeanganError, UsageError
from leangan.measure.latency import Timing
from leangan.search import lab as lab_module
from leangan.search.candidate import Candidate, entries
from leangan.search.lab import Lab
from leangan.tasks.base import Data, Sample

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def processes():
    """The worker processes of this process."""
    found = []
    for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in file.read_text().split():
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and b"leangan.runtimes.worker" in command.read_bytes():
                found.append(int(pid))
    return found


def quiet(message, done=None, total=None):
    pass


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=24)


def samples(net):
    return Data((), tuple(Sample(f"sample {i}", net.example(seed=i)) for i in range(2)))


def openvino(name, generator, **more):
    return Candidate(name, "openvino", "fp32", generator, **more)


def original(net):
    """In OpenVINO, whose process starts faster than PyTorch's."""
    return openvino("original", net, plain=True)


class Broken:
    """A runtime that fails in one way or another."""

    name = "broken"

    def __init__(self, error=None, other=None):
        self.error, self.other = error, other

    def build(self, generator, folder, precision):
        (folder / "half-written.bin").write_bytes(b"x")
        if self.error:
            raise self.error
        return runtimes.get("openvino").build(self.other, folder, precision)


@pytest.fixture
def broken(monkeypatch):
    """Makes the runtimes "broken", "alien" and "liar" known."""
    get = runtimes.get

    class Other(nn.Module):
        def forward(self, x):
            return 1 - x

    ours = {
        "broken": Broken(LeanganError("This network is not for me.")),
        "alien": Broken(RuntimeError("Check 'false' failed at src/core.cpp:12")),
        "liar": Broken(other=image_generator(Other(), size=24)),
    }
    monkeypatch.setattr(runtimes, "get", lambda name: ours.get(name) or get(name))


def fake_times(monkeypatch, **milliseconds):
    """Every round takes what is said of the candidate's title."""

    def paired(workers, **_):
        titles = iter(milliseconds.values())
        return [Timing(((t, t), (t, t)), 9.0, True) for _, t in zip(workers, titles, strict=True)]

    monkeypatch.setattr(lab_module, "paired", paired)


@linux
def test_what_fails_is_kept_and_the_others_go_on(net, broken, monkeypatch):
    task = tasks.get("translation")
    with Lab(net, task, samples(net), 1, quiet, original(net)) as lab:
        for name in ("broken", "alien", "liar"):
            lab.attempt(Candidate(name, name, "fp32", net))
        lab.attempt(openvino("sound", net, plain=True))
        lab.attempt(openvino("rewritten", net))
        fake_times(monkeypatch, original=10.0, sound=4.0, rewritten=5.0)
        lab.time()
        said = {c.name: c.error for c in lab.candidates}
        lines = {e["name"]: e for e in entries((lab.original, *lab.candidates), 1)}
        assert len(processes()) == 3  # what failed holds no process
    assert processes() == []

    assert list(said) == ["broken", "alien", "liar", "sound", "rewritten"]
    assert said["broken"] == "This network is not for me."
    assert "src/core.cpp:12" in said["alien"]
    assert "differs from the generator" in said["liar"]
    assert said["sound"] is said["rewritten"] is None
    for name in ("broken", "alien", "liar"):
        assert lines[name]["error"] == said[name]
        assert lines[name]["latency_ms"] is lines[name]["speedup"] is None
        assert lines[name]["quality"] == {}

    assert lines["original"]["speedup"] == 1
    assert lines["sound"]["speedup"] == 2.5
    assert lines["sound"]["latency_ms"] == {"p50": 4.0, "p90": 4.0, "first": 9.0}
    assert lines["sound"]["quality"]["psnr"]["n"] == 2
    assert lines["sound"]["quality"]["psnr"]["mean"] > 80
    assert lines["sound"]["size_bytes"] > 0
    # Two times faster than the original, and slower than the same runtime without our work.
    assert lines["rewritten"]["slower_than_float"]
    assert not lines["sound"]["slower_than_float"]


@linux
def test_no_process_stays_when_the_block_raises(net):
    def interrupted():
        with Lab(net, None, samples(net), 1, quiet, original(net)):
            assert len(processes()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes() == []


class Unjudgeable:
    name = "unjudgeable"

    def quality(self, *_):
        raise UsageError("These outputs cannot be judged.")


@linux
def test_no_process_stays_when_the_original_cannot_be_judged(net):
    lab = Lab(net, Unjudgeable(), samples(net), 1, quiet, original(net))
    with pytest.raises(UsageError, match="cannot be judged"), lab:
        pytest.fail("the block must not be entered")
    assert processes() == []


@linux
def test_an_original_that_does_not_run_is_an_error(net, broken):
    lab = Lab(net, None, samples(net), 1, quiet, Candidate("original", "broken", "fp32", net))
    with pytest.raises(LeanganError, match="not for me"), lab:
        pytest.fail("the block must not be entered")
    assert processes() == []


def test_flat_colours_are_looked_at_where_they_say_something(monkeypatch):
    net = image_generator(Twice(), size=16, factor=2)
    with Lab(net, tasks.get("super-resolution"), samples(net), 1, quiet, original(net)) as lab:
        candidate = lab.attempt(openvino("same", net))
        assert candidate.error is None
        assert not lab.pays(candidate, Candidate("not running", "openvino", "fp32", net))
    assert candidate.quality["flat_shift"]["n"] == 5
    assert candidate.quality["flat_shift"]["mean"] < 0.01
