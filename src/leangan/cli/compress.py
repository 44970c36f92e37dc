"""leangan compress: the fastest version that keeps the quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress
from leangan.cli.settings import SETTINGS
from leangan.errors import QualityNotReached, UsageError

EPILOG = """\b
Examples:
  leangan compress zoo:cyclegan-vintage --data photos -o out
  leangan compress zoo:dcgan-faces -o faces --on openvino
  leangan compress netG.pth --data photos -o out --keep "psnr>=45,ssim>=0.99"
  leangan compress nets.py:Generator --args '{"depth": 9}' --weights G.pth --size 1x3x256x256
      --range x=-1,1 --data photos -o out
  leangan compress netG.pth --data photos -o out --dry-run

\b
OUT then holds the deployable model, generator.pt2, recipe.yaml, report.html, report.json and
card.md. Exit code 3 means that nothing reached the quality; the best that was found is written."""


_MOST_SAMPLES = 48


@options.with_loading
def command(
    model: options.Model,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", show_default=False, help="Result folder.")
    ],
    data: options.DataFolder = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="METRIC>=NUMBER",
            show_default="of the task",
            help="Quality to keep, of the output against the original's. Repeatable.",
        ),
    ] = None,
    on: options.On = None,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    *,
    loading: options.Loading,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", metavar="FILE", show_default=False, help="Repeat a recipe.yaml exactly."
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="30m",
            show_default=False,
            help="Train as well, for forms that are faster than what needs no training.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other things.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, do nothing.")] = False,
    json_: options.Json = False,
) -> None:
    """Find the fastest version that keeps the quality, and prove it."""
    floor = options.floor_text(keep)
    runtimes = options.runtime_names(on)
    if recipe is not None and not recipe.is_file():
        raise UsageError(f"There is no recipe {recipe}.")
    if recipe is not None and time is not None:
        raise UsageError("A recipe says itself what is trained: leave --time out.")
    _check_out(out, force)
    with answer(json_) as say:
        if dry_run:
            plan = _plan(model, loading, data, out, floor, runtimes, limit, seed)
            say(plan, *(f"{key:<18}{value}" for key, value in _lines(plan)))
            return
        from leangan.search import pipeline
        from leangan.training.settings import read_time

        seconds = None if time is None else read_time(time)
        with progress() as report_progress:
            report = pipeline.compress(
                model,
                data,
                out,
                keep=floor,
                on=runtimes,
                threads=threads,
                seed=seed,
                limit=limit,
                recipe=recipe,
                seconds=seconds,
                command=SETTINGS.command,
                progress=report_progress,
                **loading.keywords(),
            )
        facts = report.to_json()
        say(facts, *_conclusion(facts, out))
    if facts["delivered"] is None:
        raise typer.Exit(QualityNotReached.exit_code)


def _conclusion(facts: dict[str, Any], out: Path) -> list[Any]:
    """The table, the verdict in a sentence, and where to read more."""
    from leangan.cli.output import stdout_width
    from leangan.report.table import entries_table
    from leangan.report.words import best_found, headline

    delivered = facts["delivered"]
    entries = [facts["original"], *facts["candidates"]]
    name = delivered["name"] if delivered else None
    lines: list[Any] = [
        entries_table(entries, name, facts["floor"], width=stdout_width()),
        headline(facts),
    ]
    best = None if delivered else best_found(facts)
    if best:
        lines.append(f"The best that was found is {best['name']}, in {out / best['file']}.")
    lines.append(f"Report: {out / 'report.html'}")
    return lines


def _check_out(out: Path, force: bool) -> None:
    """Refuse to mix a result into a folder that holds something else."""
    options.check_folder(out)
    if force or not out.is_dir() or not any(out.iterdir()):
        return
    # Of a compression with --time that was cut short.
    unfinished = {p.name for p in out.iterdir()} == {"training"}
    if not (out / "report.json").is_file() and not unfinished:
        raise UsageError(
            f"{out} holds other things and no leangan report; choose another folder, "
            "or say --force to write into it."
        )


def _plan(
    model: str,
    loading: options.Loading,
    data: Path | None,
    out: Path,
    floor: str | None,
    on: tuple[str, ...] | None,
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    """What would be done, found out by opening the model and the data but measuring nothing."""
    from leangan import runtimes, tasks
    from leangan.search.compare import runtime_names
    from leangan.search.data import data_path

    generator = loading.load(model)
    task = tasks.infer(generator)
    samples = task.data(generator, data_path(data), limit=limit or _MOST_SAMPLES, seed=seed)
    usable = [runtimes.get(name) for name in runtime_names(on)]
    return {
        "model": model,
        "task": task.name,
        "floor": floor or task.floor,
        "most_calibration": len(samples.calibration),
        "most_held_out": len(samples.held_out),
        "baseline": "the original in PyTorch eager float",
        "runtimes": {
            r.name: [*r.precisions(quantized=False), *r.precisions(quantized=True)] for r in usable
        },
        "out": str(out),
        "notes": list(samples.notes),
    }


def _lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The plan for people, one fact a line."""
    lines = []
    for key, value in plan.items():
        if isinstance(value, dict):
            text = "; ".join(f"{k}: {', '.join(v)}" for k, v in value.items())
        elif isinstance(value, list):
            text = " ".join(value)
        else:
            text = str(value)
        if text:
            lines.append((key.replace("_", " "), text))
    return lines
