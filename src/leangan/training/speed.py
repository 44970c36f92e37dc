"""How training runs fastest on this machine, measured on the student itself."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leangan.training.settings import TrainSettings
from leangan.training.student import Student

_ROUNDS = 3


def settle(
    student: Student, inputs: Sequence[Tensor], settings: TrainSettings
) -> tuple[TrainSettings, float]:
    """Choose the precision where it is "auto", and time a step.

    Rounding is learned in float32 always: bfloat16 cannot tell the steps of 8 bits apart.

    Args:
        student: is left as it is.
        inputs: a batch.
        settings: of the run.

    Returns:
        The settings with a precision, and the seconds that a step takes.
    """
    wanted = [settings.precision]
    if student.rounded:
        wanted = ["fp32"]
    elif settings.precision == "auto":
        wanted = ["fp32", "bf16"]
    trial = copy.deepcopy(student).to(memory_format=torch.channels_last)
    laid = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    times = {name: _step_time(trial, laid, name) for name in wanted}
    best = min(times, key=lambda name: times[name])
    return dataclasses.replace(settings, precision=best), times[best]


def _step_time(student: nn.Module, inputs: Sequence[Tensor], precision: str) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student.to(device)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    best = float("inf")
    for _ in range(_ROUNDS):
        begin = time.monotonic()
        with torch.autocast(device, dtype=kind, enabled=kind is not None):
            made = student(*(x.to(device) for x in inputs))[0]
            loss = made.float().square().mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - begin)
    return best
