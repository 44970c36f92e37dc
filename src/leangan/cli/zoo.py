"""leangan zoo: real trained generators to try things on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.output import answer, stdout_width
from leangan.cli.progress import progress

if TYPE_CHECKING:
    from rich.table import Table

_EPILOG = """\b
Examples:
  leangan zoo
  leangan zoo fetch cyclegan-vintage
  leangan compress zoo:cyclegan-vintage --data photos -o out"""

app = typer.Typer(
    help="List real trained networks; zoo:NAME is a MODEL.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _list(context: typer.Context, json_: options.Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    with answer(json_) as say:
        import dataclasses

        from leangan.zoo.entries import ENTRIES

        entries = [dataclasses.asdict(entry) for entry in ENTRIES]
        say({"entries": entries}, _table(entries), "Use one as zoo:NAME wherever a MODEL is asked.")


@app.command("fetch")
def _fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="As listed.")],
    json_: options.Json = False,
) -> None:
    """Download a network into the cache now, verify it, and say where it is."""
    with answer(json_) as say:
        from leangan import zoo

        name = name.removeprefix("zoo:")
        with progress() as report:
            report(f"Fetching {name}")
            files = [str(file) for file in zoo.files(name)]
        say({"name": name, "files": files}, *files)


def _table(entries: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    from leangan.report.words import count, size

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    wide = stdout_width() >= 140
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("download", justify="right", no_wrap=True)
    table.add_column("licence")
    if wide:
        table.add_column("origin", overflow="fold")
    for entry in entries:
        cells = [
            entry["name"],
            entry["summary"],
            count(entry["params"]),
            size(entry["size_bytes"]),
            entry["licence"],
        ]
        table.add_row(*cells, *([entry["origin"]] if wide else []))
    return table
