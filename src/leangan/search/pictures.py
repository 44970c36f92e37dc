"""Outputs of two generators side by side, for pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from leangan.generator import Generator
from leangan.tasks.base import Sample, Task
from leangan.tasks.preview import panels, to_data_uri


def before_and_after(
    original: Generator, other: Generator, task: Task | None, samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """Run both on each sample, and show their outputs; nothing where there is no task to judge."""
    if task is None:
        return []
    reference, output = ([g.outputs(*s.inputs)[0] for s in samples] for g in (original, other))
    return side_by_side(original, task, samples, reference, output)


def side_by_side(
    original: Generator,
    task: Task,
    samples: Sequence[Sample],
    reference: Sequence[Tensor],
    output: Sequence[Tensor],
) -> list[dict[str, Any]]:
    """Per sample its "name", "psnr" (None where the task has none) and pictures as data URIs.

    Args:
        original: for its signature.
        task: judges each sample alone.
        samples: what went in.
        reference: the original's first output of each.
        output: the other's.

    Returns:
        As many as are pictures; see `tasks.preview.panels`.
    """
    shown = []
    for sample, a, b in zip(samples, reference, output, strict=True):
        pictures = panels(original.signature, sample, a, b)
        if pictures:
            scores = task.quality(original, [sample], [a], [b])
            psnr = scores["psnr"].mean if "psnr" in scores else None
            uris = {name: to_data_uri(picture) for name, picture in pictures.items()}
            shown.append({"name": sample.name, "psnr": psnr, **uris})
    return shown
