"""leangan distill: teach a smaller network what a generator does."""

from __future__ import annotations

from typing import Annotated

import typer

from leangan.cli import options, training
from leangan.cli.output import answer
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan distill zoo:cyclegan-vintage --student shuffle-resnet --data photos --time 45m -o small
  leangan distill netG.pth --student narrow:0.25 --data photos --time 20m -o narrow
  leangan distill netG.pth --student mine.py:Small --data photos --steps 5000 -o mine

\b
narrow:0.25 is the teacher itself with its most important channels, at a quarter of its
multiply-accumulates. A family's name, with arguments where wanted, begins with random weights:
shuffle-resnet:width=48,blocks=7. Any other student is whatever leangan loads."""

_USUAL = {"batch": 8, "ema": 0.999}


@options.with_loading
@training.with_lesson
def command(
    model: options.Model,
    student: Annotated[
        str,
        typer.Option(
            "--student",
            metavar="STUDENT",
            show_default=False,
            help="narrow:SHARE, FAMILY:NAME=VALUE,..., or a model.",
        ),
    ],
    out: training.Out,
    data: options.DataFolder = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="KIND=WEIGHT",
            show_default=False,
            help="Learn the teacher's feature maps too: kernels=1 or adapters=1.",
        ),
    ] = None,
    *,
    lesson: training.Lesson,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Train a smaller network towards the output of a generator."""
    options.check_folder(out)
    with answer(json_) as say:
        keywords = lesson.keywords(_USUAL)

        from leangan.search.train import distill

        with progress() as tell:
            found = distill(
                model,
                student,
                data,
                out,
                features=training.weights(features),
                progress=tell,
                loading=loading.keywords(),
                **keywords,
            )
        say(found.facts, *training.lines(found.facts), f"written  {out / 'generator.pt2'}")
