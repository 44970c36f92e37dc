"""Held-out samples while a student learns, as pictures."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from leangan.files import atomic
from leangan.generator import Generator
from leangan.tasks.base import Sample
from leangan.tasks.preview import panels


@dataclass
class Sheets:
    """Draws samples as they are now: input, teacher, student, difference, a row each."""

    folder: Path
    original: Generator
    samples: tuple[Sample, ...]

    @functools.cached_property
    def _wanted(self) -> list[Tensor]:
        """What the teacher makes of the samples, which stays the same."""
        return [self.original.outputs(*sample.inputs)[0] for sample in self.samples]

    def __call__(self, student: nn.Module, step: int) -> None:
        """Write the sheet of a step; nothing where the output is no picture."""
        rows = []
        device = next(student.parameters()).device
        with torch.no_grad():
            for sample, wanted in zip(self.samples, self._wanted, strict=True):
                made = student(*(x.to(device) for x in sample.inputs))[0].float().cpu()
                shown = panels(self.original.signature, sample, wanted, made)
                if not shown:
                    return
                rows.append(_beside(list(shown.values())))
        sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)))
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        with atomic(self.folder / "samples" / f"step-{step:06d}.png") as temporary:
            sheet.save(temporary)


def _beside(pictures: list[Image.Image]) -> Image.Image:
    height = max(p.height for p in pictures)
    row = Image.new("RGB", (sum(p.width for p in pictures), height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
