"""Opening whatever `run` may be given, ready to be called from this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leangan.cli.options import Loading

if TYPE_CHECKING:
    from torch import Tensor

    from leangan.generator import Generator


@dataclass(frozen=True)
class Opened:
    """Something that can be run, and the generator that says what goes in and out."""

    run: Callable[..., Tensor]
    """Takes the inputs in the signature's order, returns the first output."""
    generator: Generator


def open_for_running(model: str, loading: Loading, threads: int | None) -> Opened:
    """Open `model` to run it.

    Args:
        model: a folder that compress left, a file in it, or anything that `load` takes.
        loading: for models that must be loaded.
        threads: None for all cores.

    Raises:
        LeanganError: it is none of these, or its files are not complete.
    """
    import torch

    from leangan import runtimes
    from leangan.search.compare import open_model

    found = open_model(model, **loading.keywords())
    generator, artifact = found.generator, found.artifact
    if artifact is None:
        if threads is not None:
            torch.set_num_threads(threads)
        return Opened(lambda *inputs: generator.outputs(*inputs)[0], generator)
    session = runtimes.get(artifact.runtime).open(artifact, threads or os.cpu_count() or 1)

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run([x.numpy() for x in inputs])[0])

    return Opened(run, generator)
