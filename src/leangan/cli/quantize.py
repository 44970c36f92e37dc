"""leangan quantize: fewer bits for each weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress
from leangan.cli.settings import SETTINGS

if TYPE_CHECKING:
    from leangan.techniques.scheme import Scheme

EPILOG = """\b
Examples:
  leangan quantize netG.pth --data photos -o int8.pt2 --report int8.html
  leangan quantize netG.pth --plan int8.plan.yaml --data photos -o mixed.pt2
  leangan quantize netG.pth --bits 4 --activations float --per group --data photos -o w4.pt2
  leangan quantize zoo:cyclegan-vintage --bits 4 --codebook --data photos -o small.pt2
  leangan prune netG.pth --weights 0.5 -o zeros.pt2 && \\
    leangan quantize zeros.pt2 --bits 4 --codebook --data photos -o coded.pt2

\b
With --codebook the file is smaller and the speed unchanged: weights are stored as indices of 2 to
8 bits. Without, weights have even steps, and so have activations: in 8 bits each, runtimes compute
faster. The plan beside what is written says each layer's precision; edit it and give it back."""


def _even(name: str, values: str, text: str) -> Any:
    """An option of even steps."""
    return typer.Option(
        name, metavar=values, show_default=False, help=text, rich_help_panel="Even steps"
    )


@options.with_loading
def command(
    model: options.Model,
    out: options.OutFile,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits",
            min=2,
            max=8,
            show_default=False,
            help="Bits per weight: 8, with codebooks 4, when left out.",
        ),
    ] = None,
    codebook: Annotated[
        bool, typer.Option("--codebook", help="Weights as indices into k-means codebooks.")
    ] = False,
    activations: Annotated[
        str | None,
        _even(
            "--activations",
            "8|8s|16|float",
            "Bits of what enters each layer; 8s has no zero point, faster on CPUs with AMX.",
        ),
    ] = None,
    scheme: Annotated[
        str | None, _even("--scheme", "symmetric|affine", "Weights without or with a zero point.")
    ] = None,
    per: Annotated[
        str | None, _even("--per", "tensor|channel|group", "What has a step of its own.")
    ] = None,
    step: Annotated[
        str | None,
        _even("--step", "mse|minmax|percentile|entropy", "How the steps of weights are chosen."),
    ] = None,
    range_: Annotated[
        str | None,
        _even(
            "--range",
            "output|minmax|percentile|mse|entropy|search",
            "How the ranges of activations are chosen.",
        ),
    ] = None,
    rounding: Annotated[
        str | None,
        _even("--rounding", "nearest|feedback|learned", "feedback below 8 bits when left out."),
    ] = None,
    keep_float: Annotated[
        list[str] | None, _even("--keep-float", "NAME", "A layer to leave alone. Repeatable.")
    ] = None,
    plan: Annotated[
        Path | None, _even("--plan", "FILE", "The precision of each layer, in place of these.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="GLOB",
            show_default=False,
            help="With --codebook: names of layers. Repeatable.",
        ),
    ] = None,
    data: options.DataFolder = None,
    report: Annotated[
        Path | None,
        options.page("Write a page that shows each layer's error and its weights' levels."),
    ] = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    *,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Store and compute weights in fewer bits, and show what that did."""
    options.check_file(out, ".pt2", "-o")
    if report is not None:
        options.check_file(report, ".html", "--report")
    with answer(json_) as say:
        from leangan.search.quantize import quantize_model

        said = {"per": per, "step": step, "range": range_, "rounding": rounding}
        with progress() as tell:
            found = quantize_model(
                model,
                data,
                out,
                scheme=_scheme(bits, activations, scheme, said, codebook=codebook),
                bits=bits or 4,
                codebook=codebook,
                only=only or (),
                keep_float=keep_float or (),
                plan=plan,
                report=report,
                command=SETTINGS.command,
                seed=seed,
                limit=limit,
                progress=tell,
                loading=loading.keywords(),
            )
        say(found.facts, *_lines(found.facts))


def _scheme(
    bits: int | None,
    activations: str | None,
    kind: str | None,
    said: dict[str, str | None],
    *,
    codebook: bool,
) -> Scheme | None:
    """What was said of even steps; None where nothing was."""
    from leangan.errors import UsageError
    from leangan.techniques.scheme import Scheme

    given: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if activations is not None:
        if activations not in ("8", "8s", "16", "float"):
            raise UsageError(f"--activations is 8, 8s, 16 or float, not {activations!r}.")
        given["signed"] = activations == "8s"
        given["activation_bits"] = None if activations == "float" else int(activations.rstrip("s"))
    if kind is not None:
        if kind not in ("symmetric", "affine"):
            raise UsageError(f"--scheme is symmetric or affine, not {kind!r}.")
        given["symmetric"] = kind == "symmetric"
    if bits is not None and not codebook:
        given["weight_bits"] = bits
        if bits < 8:  # few steps leave errors that the neighbours must make up for
            given.setdefault("rounding", "feedback")
    return Scheme(**given) if given else None


def _lines(facts: dict[str, Any]) -> list[str]:
    """What was done, for people."""
    from leangan.report.words import metric_words, quality_words, size

    before, after = facts["before"]["file_bytes"], facts["after"]["file_bytes"]
    lines = [f"on disk  {size(before)} -> {size(after)} ({before / after:.1f} times smaller)"]
    for metric in facts["quality"]:
        lines.append(f"quality  {metric_words(metric)[0]}: {quality_words(facts, metric)}")
    lines.append(f"         of the output against the original's, on {facts['judged_on']}")
    if facts["summary"]:
        lines.append(f"layers   {facts['summary']['words']}")
    for layer in facts["coarsest"]:
        lines.append(f"coarsest {layer['name']}: weights at {layer['weight_db']:.1f} dB")
    lines += [f"note     {note}" for note in facts["notes"]]
    lines += [f"warning  {warning}" for warning in facts["warnings"]]
    for key in ("file", "plan", "report"):
        if facts.get(key):
            lines.append(f"written  {facts[key]}")
    return lines
