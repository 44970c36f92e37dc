"""leangan finetune: train a compressed generator until it is good again."""

from __future__ import annotations

from typing import Annotated

import typer

from leangan.cli import options, training
from leangan.cli.output import answer
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan finetune pruned.pt2 --teacher netG.pth --data photos --time 10m -o tuned
  leangan finetune int8.pt2 --teacher netG.pth --data photos --steps 2000 -o tuned8
  leangan finetune netG.pth --zeros 0.5 --data photos --time 10m -o sparse
  leangan finetune netG.pth --l1 1e-5 --data photos --time 10m -o thin
  leangan finetune netG.pth --slim 2 --data photos --time 10m -o slim

\b
What was done to the weights stays done: zeros stay zero, codebooks learn their levels, and what
computes in 8 bits learns through its rounding. The teacher's output is all that is needed."""

_USUAL = {"batch": 8}


@options.with_loading
@training.with_lesson
def command(
    model: options.Model,
    out: training.Out,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            show_default=False,
            help="The original to learn from; MODEL as it is now when left out.",
        ),
    ] = None,
    data: options.DataFolder = None,
    zeros: Annotated[
        float | None,
        typer.Option(
            "--zeros",
            show_default=False,
            help="Set this share of the weights to zero on the way.",
        ),
    ] = None,
    *,
    lesson: training.Lesson,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Train a compressed generator towards the original, and show what that gave back."""
    options.check_folder(out)
    with answer(json_) as say:
        keywords = lesson.keywords(_USUAL)

        from leangan.search.train import finetune

        with progress() as tell:
            found = finetune(
                model,
                data,
                out,
                teacher=teacher,
                zeros=zeros,
                progress=tell,
                loading=loading.keywords(),
                **keywords,
            )
        say(found.facts, *training.lines(found.facts), f"written  {out / 'generator.pt2'}")
