"""leangan evaluate: two artifacts side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from leangan.cli import options
from leangan.cli.output import answer, stdout_width
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan evaluate zoo:cyclegan-vintage out --data photos
  leangan evaluate netG.pth netG_small.pth --data photos --threads 2 --json"""


def command(
    a: Annotated[
        str, typer.Argument(metavar="A", show_default=False, help="The reference: any MODEL.")
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", show_default=False, help="What is judged against it.")
    ],
    data: options.DataFolder = None,
    task: options.TaskName = None,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    range_: options.Ranges = None,
    kind: options.Kinds = None,
    trust: options.Trust = False,
    json_: options.Json = False,
) -> None:
    """Compare two models: speed, size, memory, and B's quality.

    Quality is that of B's output against A's, on the same inputs.
    """
    loading = options.Loading.read(ranges=range_, kinds=kind, trust=trust, task=task)
    with answer(json_) as say:
        from leangan.report.table import entries_table
        from leangan.report.words import metric_words, quality_words
        from leangan.search.compare import evaluate

        with progress() as report:
            result = evaluate(
                a,
                b,
                data,
                threads=threads,
                seed=seed,
                limit=limit,
                task=loading.task,
                ranges=loading.ranges,
                kinds=loading.kinds,
                trust=loading.trust,
                progress=report,
            )
        judged = {**result["b"], "quality": result["quality"]}
        lines = [f"{metric_words(m)[0]}: {quality_words(judged, m)}" for m in result["quality"]]
        table = entries_table([result["a"], judged], None, None, width=stdout_width())
        say(result, table, *lines)
