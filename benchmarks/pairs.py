"""Every generator in every runtime that this machine has: built, opened afresh, compared.

    python benchmarks/pairs.py --srgan netG.pth [--keras gan.h5 unet.keras] [-o docs/pairs.md]
        [--only TITLES] [--on RUNTIMES] [--quantized FOLDER]

Prints one table: how far the file's output is from the generator's (largest difference as a share
of the range in float32, decibels below that), or why there is no file. Nothing is timed. OUT is
written after every pair, and keeps the rows of an earlier run that this one does not make anew.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import leangan as lg
from leangan import runtimes
from leangan.architectures.pix2pix_unet import UnetGenerator
from leangan.generator import Generator
from leangan.measure.latency import Worker
from leangan.runtimes.base import Runtime
from leangan.runtimes.check import agree
from leangan.techniques.placement import quantizable
from leangan.testing.patterns import PATTERNS, settle

FLOAT_MOST, LEAST_DB = 1e-3, 30.0
PAGE = """# Every generator in every runtime

Written by `benchmarks/pairs.py`, not by hand. Each file was built, opened in a fresh process and
run on random inputs at up to three sizes. In fp32 the largest difference to the generator is told
as a share of the output's range, 1e-3 at most. In less than that the figure is decibels, 30 at
least: in 8 bits to the 8-bit generator's own output in PyTorch, in half precisions to the float
one's. How much of the original the 8 bits keep is another question, which compress answers. The
U-Net, the StyleGAN2 and the Keras models have random weights. Where the answer is no there is no
file either, unless it says how far off it is. Nothing was timed.

Left out: hls4ml, which is for smaller networks, and what does not run on this machine.

| generator | runtime | precision | agrees | to |
| --- | --- | --- | --- | --- |
"""

Row = tuple[str, str, str, str, str]


def unet(width: int, downs: int, size: int) -> Generator:
    """A pix2pix U-Net for pictures of size x size; none with trained weights was found."""
    torch.manual_seed(0)
    net = UnetGenerator(width=width, downs=downs)
    settle(net)
    return lg.load(net.eval(), example_inputs=(1, 3, size, size), ranges={"x": (-1, 1)})


def stylegan() -> Generator:
    """Two modulated convolutions and an upsampling, random weights."""
    pattern = PATTERNS["stylegan2"]
    return lg.load(pattern.build(), example_inputs=pattern.inputs())


def sources(srgan: Path | None, keras: list[Path]) -> dict[str, Callable[[], Generator]]:
    found: dict[str, Callable[[], Generator]] = {
        "DCGAN": lambda: lg.load("zoo:dcgan-faces"),
        "CycleGAN": lambda: lg.load("zoo:cyclegan-vintage").sized({"H": 128, "W": 128}),
        "U-Net": lambda: unet(16, 5, 64),
        "SRVGG": lambda: lg.load("zoo:realesr-animevideov3-x4").sized({"H": 48, "W": 48}),
        "HiFi-GAN": lambda: lg.load("zoo:hifigan-piper-joe"),
        "Small StyleGAN2": stylegan,
    }
    if srgan:
        found["SRGAN"] = lambda: lg.load(srgan).sized({"H": 48, "W": 48})
    for path in keras:
        title = f"Keras {path.stem} ({path.suffix})"
        found[title] = lambda path=path: lg.load(path)  # type: ignore[misc]
    return found


def pair(generator: Generator, runtime: Runtime, precision: str) -> tuple[bool, str]:
    """Whether the file agrees, and the cell of the table."""
    try:
        form = runtimes.fitting(generator, runtime)
        with tempfile.TemporaryDirectory() as folder:
            artifact = runtime.build(form, Path(folder), precision)
            with Worker(artifact, torch.get_num_threads()) as worker:
                found = agree(form, artifact, worker)
                share = worker.int8_share()
    except Exception as error:  # what libraries say is part of the answer
        return False, " ".join(str(error).split())[:300].replace("|", "/")
    worst, db = max(a.largest_difference for a in found), min(a.db for a in found)
    if precision == "fp32":
        return worst <= FLOAT_MOST, f"{worst:.1e}"
    eight = share is not None and precision.startswith("int8")
    told = f", {share:.0%} in 8 bits" if eight else ""
    return db >= LEAST_DB, f"{db:.1f} dB{told}"


def eight_bits(generator: Generator, title: str, folder: Path | None) -> Generator | None:
    """The generator quantized, None where nothing can be; kept in `folder`."""
    if not quantizable(generator.module()):
        return None
    path = None if folder is None else folder / f"{title}.pt2"
    if path is not None and path.exists():
        return lg.load(path)
    quantized = lg.quantize(generator, [generator.example(seed=seed) for seed in range(3)])
    if path is not None:
        quantized.save(path)
    return quantized


def read_rows(path: Path | None) -> dict[tuple[str, str, str], Row]:
    """The rows of an earlier run, by what they are of."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    rows: dict[tuple[str, str, str], Row] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 5 and cells[3] in ("yes", "no"):
            title, runtime, precision, held, said = cells
            rows[title, runtime, precision] = (title, runtime, precision, held, said)
    return rows


def write_page(path: Path, rows: list[Row], titles: list[str]) -> None:
    """By generator, in the order of `titles`, then by runtime."""
    names = [runtime.name for runtime in runtimes.known()]
    order = [*titles, *dict.fromkeys(row[0] for row in rows if row[0] not in titles)]
    rows = sorted(rows, key=lambda row: (order.index(row[0]), names.index(row[1])))
    good = sum(row[3] == "yes" for row in rows)
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    path.write_text(f"{PAGE}{lines}\n{good} of {len(rows)} pairs agree.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--srgan", type=Path)
    parser.add_argument("--keras", type=Path, nargs="*", default=[])
    parser.add_argument("--only", help="titles of generators, joined by commas")
    parser.add_argument("--on", help="names of runtimes, joined by commas")
    parser.add_argument("--quantized", type=Path, help="where 8-bit generators are kept")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    names = runtimes.timed_here()
    rows = read_rows(given.out)
    makers = sources(given.srgan, given.keras)
    for title in given.only.split(",") if given.only else makers:
        generator = makers[title]()
        quantized = eight_bits(generator, title, given.quantized)
        for name in given.on.split(",") if given.on else names:
            runtime = runtimes.get(name)
            for form in (generator, quantized):
                if form is None:
                    continue
                for precision in runtime.precisions(quantized=form is quantized):
                    held, said = pair(form, runtime, precision)
                    row = (title, name, precision, "yes" if held else "no", said)
                    print(f"| {' | '.join(row)} |", flush=True)
                    rows[row[:3]] = row
                    if given.out:
                        write_page(given.out, list(rows.values()), list(makers))


if __name__ == "__main__":
    main()
