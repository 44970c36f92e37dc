"""The README of an FPGA project: what it holds, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leangan.generator import Generator
from leangan.runtimes.fixed.network import Operation

_TEXT = """\
# {name} for an FPGA

C++ sources for high-level synthesis with AMD's Vitis HLS, made by leangan with hls4ml {version}.

## Synthesize it

1. In `project.tcl`, set `part` to your FPGA and `clock_period` (nanoseconds).
2. In `build_opt.tcl`, choose the steps: `csim` and `synth` first; `cosim` takes long for large
   networks, `export` packs the result as an IP core, `vsynth` runs logic synthesis after it.
3. Run, in this folder, `vitis-run --mode hls --tcl build_prj.tcl`.
4. `python -c "from hls4ml.report import read_vivado_report as r; r('.')"` prints the latency and
   the resources that the tool found.

`firmware/` holds the design: the top function `generator` in `generator.cpp`, layer sizes and
reuse factors in `parameters.h`, types in `defines.h`, numbers in `weights/`. `tb_data/` holds two
random samples and what must come out for them, to the last bit: `csim` prints both, and writes what
it computes to `tb_data/csim_results.log`.

## What goes in and out

Input: {input}
Output: {output}

## What it needs, counted and not synthesized

{multipliers:,} multipliers, {weights:,} KiB of weights, {tables:,} KiB of tables, each held once;
one that is read in several places at a time is copied by the tool. Logic, registers, buffers and
time are for the tool to say.

| layer | result | multipliers | each used | weights, KiB |
| --- | --- | ---: | ---: | ---: |
{rows}

A multiplier of few bits may become logic in place of a DSP block, one of many takes two. To trade
speed for size, change `reuse_factor` of a layer in `firmware/parameters.h` (a convolution has it
twice) to another divisor of the number of products that one of its outputs sums up; where it is
larger than that number, to another multiple of it. `csim` stops at one that does not fit.
"""


def readme(generator: Generator, network: Sequence[Operation], counted: Mapping[str, Any]) -> str:
    """The text of README.md, from the network and what `counted` found."""
    from importlib.metadata import version

    types = {operation.name: operation.format.exact_type for operation in network}
    rows = "\n".join(
        f"| {layer['name']} | `{types[layer['name']]}` | {layer['multipliers']} | "
        f"{layer['reuse']} | {layer['weight_bits'] / 8192:.1f} |"
        for layer in counted["layers"]
    )
    return _TEXT.format(
        name=generator.name,
        version=version("hls4ml"),
        input=_words(network[0]),
        output=_words(network[-1]),
        multipliers=counted["multipliers"],
        weights=round(counted["weight_bits"] / 8192),
        tables=round(counted["table_bits"] / 8192),
        rows=rows,
    )


def _words(operation: Operation) -> str:
    shape = " x ".join(map(str, operation.shape))
    order = "height, width, channels" if len(operation.shape) == 3 else "values"
    return f"{shape} ({order}), `{operation.format.exact_type}`"
