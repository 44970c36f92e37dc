"""Train a generator towards a teacher: what was compressed, or a smaller student."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from leangan import sources
from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.search.lesson import Judge, Lesson, Taught, teach, title
from leangan.search.students import make_student
from leangan.tasks.base import Data
from leangan.training import processes
from leangan.training.settings import TrainSettings

Progress = Callable[..., None]
_COMPRESSING = ("prune_channels", "prune_weights", "quantize_linear", "quantize_codebook")


def finetune(
    source: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    settings: TrainSettings,
    teacher: Any = None,
    losses: Mapping[str, float] | None = None,
    judge: Judge | None = None,
    size: int | None = None,
    l1: float = 0.0,
    slim: float = 0.0,
    zeros: float | None = None,
    limit: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Taught:
    """Train a compressed generator until its output is that of its teacher again.

    No labels and no discriminator are needed: the teacher says what is right. What was done to
    the weights stays done: zeros stay zero, codebooks learn their levels, and what computes in 8
    bits learns through its rounding, and still does.

    Args:
        source: what to train: whatever `leangan.load` takes, or a Generator.
        data: as for `compress`; the samples that it judges on are not trained on.
        out: the folder of the run; generator.pt2 lies in it when the run ends.
        settings: how long and how fast.
        teacher: the original; the generator itself, as it is now, when left out.
        losses: weights by name of `training.losses.LOSSES`; what is usual for such an output when
            left out.
        judge: a discriminator that learns beside, and whose verdict counts too.
        size: height, width or length of the inputs to train on; half of the usual when left out,
            all of it where the network looks at the whole picture.
        l1: weight of the sum of absolute weights, which makes weights prunable.
        slim: how fast whole channels are made smaller, which makes those prunable that nobody
            needs, see `training.sparse.ChannelShrink`.
        zeros: share of the weights to set to zero on the way, the smallest first.
        limit: the most samples to judge on; by the network's cost when left out.
        resume: go on with the run in `out`, which was given the same arguments.
        threads: of the CPU; all cores when left out.
        progress: called as progress(message, done, total).
        loading: keyword arguments of `leangan.load`, for `source`.

    Raises:
        UsageError: the request cannot be.
        LeanganError: the model or the data cannot be used, or training diverges.
    """
    say = progress or _silent
    say("Loading the model")
    begin = source if isinstance(source, Generator) else sources.load(source, **loading or {})
    if teacher is None:
        compressed = [s.name for s in begin.history if s.name in _COMPRESSING]
        if compressed:
            raise UsageError(
                f"{begin.name} was compressed already ({', '.join(compressed)}), so its own output "
                "is not what to learn: give the original with --teacher."
            )
        teacher = begin
    if zeros is not None and (begin.quantized or not 0 < zeros < 1):
        raise UsageError(
            "zeros is a share between 0 and 1, and integers cannot be pruned: prune first."
        )
    original = teacher if isinstance(teacher, Generator) else sources.load(teacher)
    asked = {
        "model": title(source, begin),
        "teacher": title(teacher, original),
    }
    lesson = Lesson(
        "finetune", original, data, Path(out), settings, losses, judge, size, limit, l1, slim, zeros
    )
    _set_threads(threads)
    return teach(lesson, lambda samples: begin, asked, resume=resume, say=say)


def distill(
    teacher: Any,
    student: Any,
    data: Path | str | None,
    out: Path | str,
    *,
    settings: TrainSettings,
    losses: Mapping[str, float] | None = None,
    features: Mapping[str, float] | None = None,
    judge: Judge | None = None,
    size: int | None = None,
    l1: float = 0.0,
    slim: float = 0.0,
    limit: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    loading: dict[str, Any] | None = None,
) -> Taught:
    """Train a smaller network towards the output of a generator (Hinton et al. 2015).

    Args:
        teacher: whatever `leangan.load` takes, or a Generator.
        student: see `students.make_student`.
        data: as for `finetune`, as are all others.
        out: the folder of the run.
        settings: how long and how fast.
        losses: see `finetune`.
        features: {"kernels": weight} or {"adapters": weight}, to learn the teacher's feature maps
            as well, see `training.features.FeatureMatch`. The teacher then runs at every step.
        judge: see `finetune`.
        size: see `finetune`.
        l1: see `finetune`.
        slim: see `finetune`.
        limit: see `finetune`.
        resume: see `finetune`.
        threads: see `finetune`.
        progress: see `finetune`.
        loading: keyword arguments of `leangan.load`, for `teacher`.

    Raises:
        UsageError: the request cannot be.
        LeanganError: the model or the data cannot be used, or training diverges.
    """
    say = progress or _silent
    say("Loading the teacher")
    original = teacher if isinstance(teacher, Generator) else sources.load(teacher, **loading or {})
    _set_threads(threads)
    features = dict(features or {})
    if len(features) > 1:
        raise UsageError("Features are matched in one way.")
    asked = {
        "model": title(student, student),
        "teacher": title(teacher, original),
        "features": features,
    }
    lesson = Lesson(
        "distill", original, data, Path(out), settings, losses, judge, size, limit, l1, slim
    )
    start = Path(out) / "student.pt2"

    def begin(samples: Data) -> Generator:
        if start.exists():  # of a run that goes on, or of the first process
            return sources.load(start)
        made = make_student(student, original, samples.calibration, settings.seed, say)
        made.save(start)
        return made

    return teach(lesson, begin, asked, resume=resume, say=say, features=features)


def _set_threads(threads: int | None) -> None:
    share = max(1, (os.cpu_count() or 1) // processes.count())
    torch.set_num_threads(threads or share)


def _silent(message: str, done: int | None = None, total: int | None = None) -> None:
    """Where nobody listens."""
