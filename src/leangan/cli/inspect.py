"""leangan inspect: what a model is, what may go wrong with it, what could be gained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.channels import channel_lines, describe_channels
from leangan.cli.output import answer, stdout_width
from leangan.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from torch import Tensor

    from leangan.generator import Generator, Port

EPILOG = """\b
Examples:
  leangan inspect zoo:cyclegan-vintage
  leangan inspect netG.pth --layers
  leangan inspect netG.pth --channels --data photos
  leangan inspect nets.py:Generator --size 1x3x256x256 --args '{"depth": 9}' --json"""

_TOP = 8
_SAMPLES = 9
"""Two thirds of them calibrate."""
_SPATIAL = "HWT"
_QUANTIZABLE = ("conv", "linear")
"""How operators that can run in 8 bits begin, where their weight is stored."""
_CODED = ("precision", "per", "steps", "levels", "bytes", "weight_db", "output_db")
"""What is told of the layers of a quantized generator, see `techniques.describe_quantized`."""


@options.with_loading
def command(
    model: options.Model,
    layers: Annotated[
        bool, typer.Option("--layers", help="All layers, not only the most expensive.")
    ] = False,
    channels: Annotated[
        bool, typer.Option("--channels", help="All groups of channels that can be pruned.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Typical inputs: then criteria that look at feature maps judge channels too.",
        ),
    ] = None,
    *,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Show inputs, size, cost and hazards, and what could be gained."""
    with answer(json_) as say:
        with progress() as report:
            report(f"Loading {model}")
            generator = loading.load(model)
            report("Looking for rewrites that apply")
            facts = describe(generator)
            report("Looking for channels that can be pruned")
            facts["channels"] = describe_channels(generator, _inputs(generator, data))
        say(
            facts,
            *_lines(facts),
            _layers_table(facts, every=layers),
            *channel_lines(facts["channels"], every=channels, width=stdout_width()),
        )


def _inputs(generator: Generator, data: Path | None) -> list[tuple[Tensor, ...]]:
    """A few real inputs; none where there is no data."""
    if data is None:
        return []
    from leangan import tasks
    from leangan.search.data import data_path

    samples = tasks.infer(generator).data(generator, data_path(data), limit=_SAMPLES)
    return [sample.inputs for sample in samples.calibration]


def describe(generator: Generator) -> dict[str, Any]:
    """Everything that `inspect` tells, as JSON values; MACs are those of the typical sizes."""
    import dataclasses

    from leangan.graph import cost
    from leangan.graph.doors import DOOR_REWRITES
    from leangan.graph.receptive import receptive_field
    from leangan.techniques.describe_quantized import describe_layers, summarize
    from leangan.techniques.read_quantized import has_few_levels

    layers = cost.layers(generator)
    macs = sum(layer.macs for layer in layers)
    eight = sum(m.macs for m in layers if m.weight and m.op.startswith(_QUANTIZABLE))
    if generator.quantized:  # a choice was made already; it is not made twice
        eight = 0
    coded = describe_layers(generator) if has_few_levels(generator) else []
    described, quantization = {layer.name: layer for layer in coded}, summarize(coded)
    halo = receptive_field(generator)
    signature = generator.signature.to_json()
    return {
        "name": generator.name,
        "task": generator.task,
        "inputs": list(signature["inputs"]),
        "outputs": list(signature["outputs"]),
        "params": generator.params,
        "bytes": generator.bytes,
        "macs": macs,
        "receptive_field": halo if _free(generator.signature.inputs) else None,
        "history": [dataclasses.asdict(step) for step in generator.history],
        "hazards": hazards(generator, halo),
        "gains": {
            "rewrites": [n for n, door in DOOR_REWRITES.items() if door.applies(generator)],
            "quantizable_share": eight / macs if macs else 0.0,
        },
        "quantization": quantization,
        "layers": [
            dataclasses.asdict(layer)
            | ({k: getattr(described[layer.name], k) for k in _CODED} if quantization else {})
            for layer in layers
        ],
    }


def hazards(generator: Generator, halo: int | None) -> list[str]:
    """What may surprise somebody who deploys it, each in a sentence.

    Args:
        generator: loaded.
        halo: pixels that an output depends on to each side, None for the whole input.
    """
    found = []
    inputs, outputs = generator.signature.inputs, generator.signature.outputs
    if halo is None and _free(inputs):
        found.append(
            "The output depends on the whole input at once (a norm over it, or alike): large "
            "inputs cannot be run in tiles."
        )
    if any(step.measured.get("drawn_once") for step in generator.history):
        found.append(
            "The network draws random numbers while it runs. Here they were drawn once, and are "
            "the same at every run and for all samples of a batch."
        )
    for port in (*inputs, *outputs):
        if port.kind is None:
            like = "latent" if len(port.layout) == 2 else "image"
            found.append(f"What {port.name!r} means is not known: say --kind {port.name}={like}.")
        elif port.kind == "image" and port.range is None:
            found.append(f"The range of {port.name!r} is not known: say --range {port.name}=-1,1.")
    for port in inputs:
        if port.kind in ("latent", "noise"):
            continue  # a latent has no size that somebody could wish otherwise
        fixed = [
            f"{letter}={size}"
            for letter, size in zip(port.layout, port.shape, strict=True)
            if size is not None and letter in "N" + _SPATIAL
        ]
        if fixed:
            found.append(
                f"Input {port.name!r} has fixed sizes ({', '.join(fixed)}): others are padded."
            )
    if generator.task is None:
        found.append("What it is for is not known: say it with --task.")
    return found


def _free(ports: Sequence[Port]) -> bool:
    """Whether some input comes in sizes of its own: how far an output looks matters then only."""
    return any(
        size is None and letter in _SPATIAL
        for port in ports
        for letter, size in zip(port.layout, port.shape, strict=True)
    )


def _lines(facts: dict[str, Any]) -> list[str]:
    from leangan.report.words import count, plain, share, size

    lines = [
        f"{facts['name']}: {facts['task'] or 'unknown task'}, {count(facts['params'])} weights, "
        f"{size(facts['bytes'])}, {count(facts['macs'])} MACs at the usual size",
        *(f"input   {_port(port)}" for port in facts["inputs"]),
        *(f"output  {_port(port)}" for port in facts["outputs"]),
    ]
    field = facts["receptive_field"]
    if field is not None:
        lines.append(f"An output depends on {field} positions to each side of it.")
    lines += _quantized(facts)
    for step in facts["history"]:
        settings = {k: v for k, v in step["settings"].items() if v not in ((), [], {})}
        notes = settings.pop("notes", [])
        settings.pop("words", None)  # the table has each layer's precision
        if notes:
            settings.pop("arguments", None)  # the notes say them in words
        done = plain(settings)
        lines.append(f"history {step['name']}{': ' if done else ''}{done}")
        lines += [f"note    {note}" for note in notes]
    lines += [f"hazard  {hazard}" for hazard in facts["hazards"]]
    gains = facts["gains"]
    if not facts["quantization"] or gains["quantizable_share"]:
        lines.append(f"gain    {share(gains['quantizable_share'])} of the MACs can run in 8 bits")
    if gains["rewrites"]:
        lines.append(f"gain    exact rewrites that apply: {', '.join(gains['rewrites'])}")
    return lines


def _quantized(facts: dict[str, Any]) -> list[str]:
    """How many layers have which precision, and those that cost the most quality."""
    if not facts["quantization"]:
        return []
    lines = [f"quantized: {facts['quantization']['words']}"]
    layers = {layer["name"]: layer for layer in facts["layers"]}
    for layer in (layers[name] for name in facts["quantization"]["worst"]):
        cost = f"weights at {layer['weight_db']:.1f} dB"
        if layer["output_db"] is not None:
            cost = f"output at {layer['output_db']:.1f} dB when it alone is quantized"
        lines.append(f"worst   {layer['name']}, {layer['precision']}: {cost}")
    return lines


def _port(port: dict[str, Any]) -> str:
    multiple = port["multiple"] or [1] * len(port["shape"])
    sizes = [
        f"{letter} {size or ('any' if m == 1 else f'any multiple of {m}')}"
        for letter, size, m in zip(port["layout"], port["shape"], multiple, strict=True)
    ]
    bounds = port["range"]
    values = f"{bounds[0]:g} to {bounds[1]:g}" if bounds else "unbounded"
    if not bounds and port["kind"] in (None, "image"):
        values = "range unknown"
    usual = "x".join(map(str, port["typical"]))
    return f"{port['name']}: {port['kind'] or 'kind unknown'}, {', '.join(sizes)}, {values}, " + (
        f"usually {usual}"
    )


def _layers_table(facts: dict[str, Any], *, every: bool) -> Table:
    """In running order with --layers, else the most expensive ones first."""
    from rich import box
    from rich.table import Table

    from leangan.report.words import count

    layers, macs = facts["layers"], facts["macs"] or 1
    shown = layers if every else sorted(layers, key=lambda m: -m["macs"])[:_TOP]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style="dim",
        caption=None if len(shown) == len(layers) else f"{len(layers)} layers; all with --layers",
        caption_justify="left",
    )
    coded = bool(facts["quantization"])
    for name in ("layer", "operator", "output", *(["precision"] if coded else [])):
        table.add_column(name)
    for name in ("weights", "MACs", "share"):
        table.add_column(name, justify="right")
    for layer in shown:
        table.add_row(
            layer["name"],
            layer["op"],
            "x".join(map(str, layer["shape"])),
            *([layer["precision"]] if coded else []),
            count(layer["params"]),
            count(layer["macs"]),
            f"{layer['macs'] / macs:.1%}",
        )
    return table
