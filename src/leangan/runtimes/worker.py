"""The fresh process that an artifact is opened and timed in; `measure.latency.Worker` starts it.

It reads one JSON object a line on stdin and answers each with one on stdout:

    {"open": artifact, "threads": n}     -> {"ok": true, "seconds": s}
    {"run": "in.npz", "out": "out.npz"}  -> {"ok": true, "ms": t}, the first time also "first_ms"
    {"time": n}                          -> {"ms": [t, ...]}, n calls on the last inputs
    {"share": true}                      -> {"int8_share": 0 to 1, or null}
    {"layers": true}                     -> {"layer_ms": {name: t, ...}}, on the last inputs
    {"memory": true}                     -> {"peak_bytes": b, "peak_bytes_process": b}
    {"quit": true}

Arrays lie in the .npz as arr_0, arr_1, ... in the signature's order. What fails is answered with
{"error": "sentence"}, and the process goes on.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np

from leangan.errors import BackendMissing, LeanganError
from leangan.measure.memory import current_bytes, peak_bytes
from leangan.runtimes import get
from leangan.runtimes.base import Artifact, Session

Request = dict[str, Any]
Reply = dict[str, Any]


class _Opened:
    """What the requests have built up so far."""

    def __init__(self) -> None:
        self.memory_before = 0
        self.session: Session | None = None
        self.inputs: list[np.ndarray] | None = None

    def need_session(self) -> Session:
        if self.session is None:
            raise LeanganError("No artifact is open yet.")
        return self.session


def _open(state: _Opened, request: Request) -> Reply:
    artifact = Artifact.from_json(request["open"])
    runtime = get(artifact.runtime)
    missing = runtime.missing()
    if missing:
        raise BackendMissing(f"{runtime.name} is not usable here; get it with: {missing}")
    state.memory_before = current_bytes()
    start = time.perf_counter()
    state.session = runtime.open(artifact, int(request["threads"]))
    return {"ok": True, "seconds": time.perf_counter() - start}


def _run(state: _Opened, request: Request) -> Reply:
    session = state.need_session()
    with np.load(request["run"], allow_pickle=False) as file:
        inputs = [file[f"arr_{i}"] for i in range(len(file.files))]
    start = time.perf_counter()
    outputs = session.run(inputs)
    ms = (time.perf_counter() - start) * 1e3
    np.savez(request["out"], *outputs)
    first = {"first_ms": ms} if state.inputs is None else {}
    state.inputs = inputs
    return {"ok": True, "ms": ms, **first}


def _time(state: _Opened, request: Request) -> Reply:
    session = state.need_session()
    if state.inputs is None:
        raise LeanganError("Nothing was run yet that could be timed.")
    times = []
    for _ in range(int(request["time"])):
        start = time.perf_counter()
        session.run(state.inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return {"ms": times}


def _share(state: _Opened, request: Request) -> Reply:
    return {"int8_share": state.need_session().int8_share()}


def _layers(state: _Opened, request: Request) -> Reply:
    return {"layer_ms": state.need_session().layer_times()}


def _memory(state: _Opened, request: Request) -> Reply:
    peak = peak_bytes()
    return {"peak_bytes": max(0, peak - state.memory_before), "peak_bytes_process": peak}


_ANSWERS: dict[str, Callable[[_Opened, Request], Reply]] = {
    "open": _open,
    "run": _run,
    "time": _time,
    "share": _share,
    "layers": _layers,
    "memory": _memory,
}


def answer(state: _Opened, request: Request) -> Reply:
    """One reply, whatever happens: an error becomes its first line."""
    try:
        for key, function in _ANSWERS.items():
            if key in request:
                return function(state, request)
        raise LeanganError(f"Unknown request: {', '.join(request)}.")
    except LeanganError as error:
        return {"error": str(error)}
    except Exception as error:  # the words of whichever runtime failed
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}


def main() -> None:
    """Serve requests until {"quit": true}, or until the parent is gone."""
    with _own_stdout() as out:
        requests: queue.Queue[Request] = queue.Queue()
        threading.Thread(target=_read, args=(requests,), daemon=True).start()
        state = _Opened()
        while "quit" not in (request := requests.get()):
            out.write(json.dumps(answer(state, request)) + "\n")
            out.flush()
    # The interpreter's own end would wait for the thread that waits for a line.
    os._exit(0)


def _read(requests: queue.Queue[Request]) -> None:
    """Read in a thread, so that the end of the parent ends a long run too."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """The real stdout for the protocol; what libraries print goes to stderr, C code included."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield out


if __name__ == "__main__":
    main()
