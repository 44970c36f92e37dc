"""What a changed generator is judged on, for commands that make one without a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leangan import tasks
from leangan.errors import LeanganError, UnknownValue, UsageError
from leangan.generator import Generator
from leangan.search.data import affordable, data_path
from leangan.tasks.arrays import FAR
from leangan.tasks.base import Data, Sample, Task
from leangan.tasks.calibration import check_inputs
from leangan.tasks.quality import signal_quality

_RANDOM = 4
"""Random inputs to judge on when there are no samples."""
RANDOM_ONLY = (
    "The quality was judged on random inputs only, which says little of real ones: give "
    "--data, and --task where it is not known."
)


def task_samples(
    generator: Generator, data: Path | str | None, limit: int | None, seed: int, *, must: bool
) -> tuple[Task | None, Data, str]:
    """The task's samples; where it is unknown or there is no data, random inputs to judge on.

    Args:
        generator: float.
        data: folder or `zoo:NAME`, None where there is none.
        limit: the most samples; what the network's cost allows when None.
        seed: of the samples.
        must: refuse to do without.

    Returns:
        The task (None for random inputs), the samples, and in words what is judged on.

    Raises:
        UnknownValue, UsageError: as the task says, where data was given or is needed.
        LeanganError: the samples do not fit the generator.
    """
    try:
        task = tasks.infer(generator)
        made = task.data(
            generator, data_path(data), limit=limit or affordable(generator), seed=seed
        )
    except (UnknownValue, UsageError):
        if data is not None or must:
            raise
        random = [
            Sample(f"random input {i}", generator.example(seed=seed * FAR + i))
            for i in range(_RANDOM)
        ]
        return None, Data((), tuple(random)), f"{_RANDOM} random inputs"
    check_inputs(generator, (*made.calibration, *made.held_out))
    return task, made, f"{len(made.held_out)} held-out samples"


def sizes(generator: Generator, file: Path) -> dict[str, int]:
    """Weights, and bytes: of the tensors, of the file that the generator was saved as."""
    return {
        "params": generator.params,
        "bytes": generator.bytes,
        "file_bytes": file.stat().st_size,
    }


def quality_of(
    original: Generator, made: Generator, task: Task | None, samples: Sequence[Sample], *, cure: str
) -> dict[str, Any]:
    """Per metric {"mean", "worst", "n"} of `made` against the original's own output.

    Raises:
        LeanganError: an output is not finite; `cure` says what to do about it.
    """
    reference: list[Tensor] = []
    output: list[Tensor] = []
    for sample in samples:
        reference.append(original.outputs(*sample.inputs)[0])
        output.append(made.outputs(*sample.inputs)[0])
        if not bool(torch.isfinite(output[-1]).all()):
            raise LeanganError(f"{made.name} puts out NaN or Inf for {sample.name} now; {cure}.")
    if task is None:
        scores = signal_quality(reference, output)
    else:
        scores = task.quality(original, samples, reference, output)
    return {name: score.to_json() for name, score in scores.items()}
