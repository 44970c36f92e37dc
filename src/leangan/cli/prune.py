"""leangan prune: fewer channels, or zeros."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.channels import fixed_words
from leangan.cli.output import answer
from leangan.cli.progress import progress
from leangan.cli.settings import SETTINGS
from leangan.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

EPILOG = """\b
Examples:
  leangan prune zoo:cyclegan-vintage --macs 0.7 --data photos -o small.pt2
  leangan prune netG.pth --channels 0.5 --by feature-rank --data photos -o small.pt2 --report r.html
  leangan prune netG.pth --latency 0.5 --for openvino --data photos -o small.pt2
  leangan prune GAN.pth --weights 0.5 --by random --only linear -o G.pt2
  leangan prune GAN.pth --weights 0.5 --by random --only linear --part discriminator -o D.pt2

\b
Give exactly one of --channels, --macs, --params, --latency and --weights SHARE. Removed channels
make the network faster; zeros only make its file smaller. OUT.pt2 is taken by every command."""


def _share(name: str, help_: str) -> Any:
    return typer.Option(name, metavar="SHARE", show_default=False, help=help_)


@options.with_loading
def command(
    model: options.Model,
    out: options.OutFile,
    channels: Annotated[
        float | None, _share("--channels", "Remove this share of the channels.")
    ] = None,
    macs: Annotated[
        float | None, _share("--macs", "Leave this share of the multiply-accumulates.")
    ] = None,
    params: Annotated[
        float | None, _share("--params", "Leave this share of the parameters.")
    ] = None,
    latency: Annotated[
        float | None,
        _share("--latency", "Leave this share of the time that --for needs, as it is measured."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="SHARE|FILE",
            show_default=False,
            help="Set this share of the weights to zero; or the weights of file.py:Class.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="CRITERION",
            show_default="redundancy; magnitude for --weights",
            help="How channels (redundancy, l1, taylor, random...) or weights (magnitude, random) "
            "are chosen.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="GLOB",
            show_default=False,
            help="Names of groups of channels; of layers, or their kind (linear, conv), for "
            "--weights. Repeatable.",
        ),
    ] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="The same share of channels in every group.")
    ] = False,
    no_reconstruct: Annotated[
        bool, typer.Option("--no-reconstruct", help="Do not refit the weights that are left.")
    ] = False,
    multiple: Annotated[
        int, typer.Option("--multiple", min=1, help="What kept widths are rounded to.")
    ] = 8,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            metavar="N:M",
            show_default=False,
            help="With --weights: keep N of every M weights along the inputs.",
        ),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="With --weights: the same share in every layer.")
    ] = False,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="RUNTIME",
            show_default=False,
            help="Time the original and the pruned one in this runtime, in turns.",
        ),
    ] = None,
    data: options.DataFolder = None,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    *,
    loading: options.Loading,
    report: Annotated[
        Path | None,
        options.page("Write a page that shows what was removed, and why."),
    ] = None,
    json_: options.Json = False,
) -> None:
    """Remove channels, or set weights to zero, and show what that did."""
    share, loading = _weights(weights, loading)
    runtime = _runtime(for_)
    if latency is not None and runtime is None:
        raise UsageError("--latency needs the runtime to measure in: --for openvino, say.")
    options.check_file(out, ".pt2", "-o")
    if report is not None:
        options.check_file(report, ".html", "--report")
    with answer(json_) as say:
        from leangan.search.prune import prune

        with progress() as tell:
            found = prune(
                model,
                data,
                out,
                channels=channels,
                macs=macs,
                params=params,
                latency=latency,
                weights=share,
                by=by,
                only=only or (),
                uniform=uniform,
                reconstruct=not no_reconstruct,
                multiple=multiple,
                per_layer=per_layer,
                pattern=pattern,
                on=runtime,
                threads=threads,
                seed=seed,
                limit=limit,
                report=report,
                command=SETTINGS.command,
                progress=tell,
                loading=loading.keywords(),
            )
        say(found.facts, *_lines(found.facts, report))


def _weights(given: list[str] | None, loading: options.Loading) -> tuple[float | None, Any]:
    """`--weights` as in the other commands a file, or the share to set to zero."""
    shares, files = [], []
    for text in given or ():
        try:
            shares.append(float(text))
        except ValueError:
            files.append(Path(text))
    if len(shares) > 1 or len(files) > 1:
        raise UsageError("--weights takes one share, and one file for file.py:Class.")
    for file in files:
        if not file.exists():
            raise UsageError(
                f"--weights {file} is neither a share between 0 and 1 nor a file that there is."
            )
    return next(iter(shares), None), dataclasses.replace(loading, weights=next(iter(files), None))


def _runtime(name: str | None) -> str | None:
    names = options.runtime_names([name] if name else None)
    if names is not None and len(names) != 1:
        raise UsageError(f"--for takes one runtime, not {name!r}.")
    return names[0] if names else None


def _lines(facts: dict[str, Any], report: Path | None) -> list[Any]:
    """What was done, for people."""
    from leangan.report.words import (
        count,
        metric_words,
        milliseconds,
        quality_words,
        runtime,
        size,
        times,
    )

    before, after = facts["before"], facts["after"]
    lines: list[Any] = []
    if "weights" in facts["plan"]:
        lines.append(f"zeros    {before['zeros']:.1%} -> {after['zeros']:.1%} of the weights")
    else:
        lines.append(_widths(facts["widths"]))
        lines.append(_change("weights", before["params"], after["params"], count))
        lines.append(_change("MACs", before["macs"], after["macs"], count))
    for name, key in (("tensors", "bytes"), ("on disk", "file_bytes"), ("zipped", "zip_bytes")):
        lines.append(_change(name, before[key], after[key], size))
    for metric in facts["quality"]:
        lines.append(f"{'quality':<9}{metric_words(metric)[0]}: {quality_words(facts, metric)}")
    lines.append(f"{'':<9}of the output against the original's, on {facts['judged_on']}")
    for tried in facts["tried"]:
        lines.append(
            f"{'tried':<9}{tried['macs']:.0%} of the MACs: {tried['time']:.0%} of the time"
        )
    speed = facts["speed"]
    if speed:
        lines.append(
            f"{'speed':<9}{milliseconds(speed['before_ms']['p50'])} -> "
            f"{milliseconds(speed['after_ms']['p50'])} ms, {times(speed['speedup'])}, in turns in "
            f"{runtime(speed['runtime'])} {speed['precision']}, {speed['threads']} threads"
        )
    lines += [f"{'fixed':<9}{fixed_words(stuck)}" for stuck in facts["fixed"]]
    lines += [f"{'note':<9}{note}" for note in facts["notes"]]
    lines += [f"{'warning':<9}{warning}" for warning in facts["warnings"]]
    lines.append(f"{'written':<9}{facts['file']}")
    if report is not None:
        lines.append(f"{'report':<9}{report}")
    return lines


def _change(name: str, before: float, after: float, words: Any) -> str:
    left = after / before if before else 1.0
    return f"{name:<9}{words(before)} -> {words(after)} ({left:.0%} left)"


def _widths(widths: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("group of channels")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for row in widths:
        style = "dim" if row["before"] == row["after"] else ""
        table.add_row(row["group"], str(row["before"]), str(row["after"]), style=style)
    return table
