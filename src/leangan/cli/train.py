"""leangan train: a generator from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leangan.cli import options, training
from leangan.cli.output import answer
from leangan.cli.progress import progress
from leangan.errors import UsageError

EPILOG = """\b
Examples:
  leangan train synthesis --data digits --time 20m -o gan
  leangan train synthesis --data faces --model dcgan:latent=100,channels=3 --steps 20000 -o gan

\b
A DCGAN and a discriminator with spectral normalization, as references to compress. Sheets of
samples appear in the folder while it learns."""

_USUAL = {"batch": 64, "ema": 0.999, "beta": 0.5}


def command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What it is for: synthesis.")],
    out: training.Out,
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", show_default=False, help="Folder of real pictures."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FAMILY:NAME=VALUE,...",
            show_default=False,
            help="The generator; a DCGAN of the pictures' size when left out.",
        ),
    ] = None,
    time: training.Time = None,
    steps: training.Steps = None,
    batch: training.Batch = None,
    lr: training.Rate = None,
    ema: training.Ema = None,
    game: Annotated[
        str, typer.Option("--game", help="non-saturating, hinge or lsgan.")
    ] = "non-saturating",
    resume: training.Resume = False,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    json_: options.Json = False,
) -> None:
    """Train a reference generator from nothing, against a discriminator."""
    options.check_folder(out)
    if task != "synthesis":
        raise UsageError(f"Only synthesis can be trained from nothing so far, not {task!r}.")
    with answer(json_) as say:
        settings = training.settings(time, steps, _USUAL, batch=batch, lr=lr, ema=ema, seed=seed)

        from leangan.search.train_new import train_gan

        with progress() as tell:
            found = train_gan(
                data,
                out,
                spec=model,
                settings=settings,
                game=game,
                resume=resume,
                threads=threads,
                progress=tell,
            )
        say(found.facts, *training.lines(found.facts), f"written  {out / 'generator.pt2'}")
