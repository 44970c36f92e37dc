"""leangan quantize: fewer bits for each weight."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan quantize zoo:cyclegan-vintage --bits 4 --codebook --data photos -o small.pt2
  leangan quantize netG.pth --bits 8 --data photos -o int8.pt2
  leangan prune netG.pth --weights 0.5 -o zeros.pt2 && \\
    leangan quantize zeros.pt2 --bits 4 --codebook --data photos -o coded.pt2

\b
With --codebook the file is smaller and the speed unchanged: weights are stored as indices of 2 to
8 bits. Without, weights and activations are int8, which runtimes compute faster with."""


@options.with_loading
def command(
    model: options.Model,
    out: options.OutFile,
    bits: Annotated[int, typer.Option("--bits", min=2, max=8, help="Bits per weight.")] = 8,
    codebook: Annotated[
        bool, typer.Option("--codebook", help="Weights as indices into k-means codebooks.")
    ] = False,
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
    seed: options.Seed = 0,
    limit: options.Limit = None,
    *,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Store and compute weights in fewer bits, and show what that did."""
    options.check_file(out, ".pt2", "-o")
    with answer(json_) as say:
        from leangan.search.quantize import quantize_model

        with progress() as tell:
            found = quantize_model(
                model,
                data,
                out,
                bits=bits,
                codebook=codebook,
                only=only or (),
                seed=seed,
                limit=limit,
                progress=tell,
                loading=loading.keywords(),
            )
        say(found.facts, *_lines(found.facts))


def _lines(facts: dict[str, Any]) -> list[str]:
    """What was done, for people."""
    from leangan.report.words import metric_words, quality_words, size

    before, after = facts["before"]["file_bytes"], facts["after"]["file_bytes"]
    lines = [f"on disk  {size(before)} -> {size(after)} ({before / after:.1f} times smaller)"]
    for metric in facts["quality"]:
        lines.append(f"quality  {metric_words(metric)[0]}: {quality_words(facts, metric)}")
    lines.append(f"         of the output against the original's, on {facts['judged_on']}")
    known = {n: v for n, v in facts["layers"].items() if v["snr_db"] is not None}
    for name in sorted(known, key=lambda n: float(known[n]["snr_db"]))[:3]:
        lines.append(f"coarsest {name}: weights at {known[name]['snr_db']:.1f} dB")
    lines += [f"note     {note}" for note in facts["notes"]]
    lines += [f"warning  {warning}" for warning in facts["warnings"]]
    lines.append(f"written  {facts['file']}")
    return lines
