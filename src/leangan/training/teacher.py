"""The network to learn from, in the fastest form that is exact enough for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leangan import runtimes
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.measure.signal import snr
from leangan.training.examples import Run

_FORMS = (("openvino", "bf16"), ("openvino", "fp32"))
"""Fastest first; PyTorch itself where none of them is there or exact."""


@contextlib.contextmanager
def teacher(generator: Generator, threads: int, exact_db: float) -> Iterator[tuple[str, Run]]:
    """Open the teacher: its form in words, and a function from inputs to its first output.

    Args:
        generator: any.
        threads: to run on.
        exact_db: signal to error ratio from which on a form is as good as the original to learn
            from: well above what the student will reach.
    """
    inputs = generator.example(seed=1)
    wanted = generator.outputs(*inputs)[0]
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        for name, precision in _FORMS:
            runtime = runtimes.get(name)
            if runtime.missing() or precision not in runtime.precisions(quantized=False):
                continue
            try:
                place = Path(folder) / precision
                place.mkdir()
                session = runtime.open(runtime.build(generator, place, precision), threads)

                def run(x: tuple[Tensor, ...], session: runtimes.Session = session) -> Tensor:
                    return torch.from_numpy(np.array(session.run([t.numpy() for t in x])[0]))

                exact = snr(wanted, run(inputs)) >= exact_db
            except LeanganError:
                continue  # a form that cannot be built: the next
            if exact:
                yield f"{name} {precision}", run
                return
        yield "torch fp32", lambda x: generator.outputs(*x)[0]
