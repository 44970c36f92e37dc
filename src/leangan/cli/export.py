"""leangan export: one deployable form, without searching."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.errors import UsageError

EPILOG = """\b
Examples:
  leangan export zoo:cyclegan-vintage --to openvino -o vintage
  leangan export out/generator.pt2 --to onnxruntime --precision int8 -o onnx"""


@options.with_loading
def command(
    model: options.Model,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="RUNTIME",
            show_default=False,
            help="openvino, onnxruntime, litert, executorch, ncnn, coreml, hls4ml, torch...",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", show_default=False, help="Where it goes."),
    ],
    precision: Annotated[
        str | None,
        typer.Option("--precision", show_default="the exact one", help="fp32, bf16, int8..."),
    ] = None,
    *,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Write a model in the form that one runtime takes."""
    names = options.runtime_names([to])
    if names is None or len(names) != 1:
        raise UsageError(f"--to takes one runtime, not {to!r}.")
    options.check_folder(out)
    with answer(json_) as say:
        from leangan import runtimes
        from leangan.search.export import export

        artifact, agreements = export(
            loading.load(model), out, runtime=names[0], precision=precision
        )
        proof = [
            f"{a.size}: largest difference {a.largest_difference:.1e} of the range"
            for a in agreements
        ] or [
            f"Not run: files of {names[0]} do not run on this system. Nothing proves yet that "
            "this one computes the same; compare it with the model where it runs."
        ]
        coverage = runtimes.coverage(artifact)
        facts = {
            **artifact.to_json(),
            "agreement": [asdict(a) for a in agreements],
            "coverage": coverage,
        }
        # A project has a hundred files in folders of its own.
        shown = [str(file) for file in artifact.files if file.parent == artifact.path.parent]
        say(facts, *shown, *proof, *coverage)
