"""Every generator in every runtime that this machine has: built, opened afresh, compared.

    python benchmarks/pairs.py --srgan netG.pth [--keras gan.h5 unet.keras] [-o docs/runtimes.md]

Prints one table: how far the file's output is from the generator's (largest difference as a share
of the range in float, decibels in 8 bits), or why there is no file. Nothing is timed.
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
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.measure.latency import Worker
from leangan.runtimes.base import Runtime
from leangan.runtimes.check import agree
from leangan.techniques.placement import quantizable
from leangan.testing.patterns import PATTERNS, settle

FLOAT_MOST, INT8_LEAST_DB = 1e-3, 30.0


def unet() -> Generator:
    """A pix2pix U-Net of 5 levels; no package with trained weights of one was found."""
    torch.manual_seed(0)
    net = UnetGenerator(width=16, downs=5)
    settle(net)
    return lg.load(net.eval(), example_inputs=(1, 3, 64, 64), ranges={"x": (-1, 1)})


def stylegan() -> Generator:
    """Two modulated convolutions and an upsampling, random weights."""
    pattern = PATTERNS["stylegan2"]
    return lg.load(pattern.build(), example_inputs=pattern.inputs())


def sources(srgan: Path | None, keras: list[Path]) -> dict[str, Callable[[], Generator]]:
    found: dict[str, Callable[[], Generator]] = {
        "DCGAN": lambda: lg.load("zoo:dcgan-faces"),
        "CycleGAN": lambda: lg.load("zoo:cyclegan-vintage").sized({"H": 128, "W": 128}),
        "U-Net": unet,
        "HiFi-GAN": lambda: lg.load("zoo:hifigan-piper-joe"),
        "StyleGAN2, small": stylegan,
    }
    if srgan:
        found["SRGAN"] = lambda: lg.load(srgan).sized({"H": 48, "W": 48})
    for path in keras:
        found[path.name] = lambda path=path: lg.load(path)  # type: ignore[misc]
    return found


def pair(generator: Generator, runtime: Runtime, precision: str) -> tuple[bool, str]:
    """Whether the file agrees, and the cell of the table."""
    quantized = precision.startswith("int8")
    try:
        form = runtimes.fitting(generator, runtime)
        with tempfile.TemporaryDirectory() as folder:
            artifact = runtime.build(form, Path(folder), precision)
            with Worker(artifact, torch.get_num_threads()) as worker:
                found = agree(form, artifact, worker)
                share = worker.int8_share()
    except (LeanganError, Exception) as error:  # what libraries say is part of the answer
        return False, " ".join(str(error).split())[:160]
    worst, db = max(a.largest_difference for a in found), min(a.db for a in found)
    if quantized:
        told = "" if share is None else f", {share:.0%} in 8 bits"
        return db >= INT8_LEAST_DB, f"{db:.1f} dB{told}"
    return worst <= FLOAT_MOST or precision != "fp32", f"{worst:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--srgan", type=Path)
    parser.add_argument("--keras", type=Path, nargs="*", default=[])
    parser.add_argument("--on", help="names of runtimes, joined by commas")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    names = given.on.split(",") if given.on else [r.name for r in runtimes.available()]
    lines = ["| generator | runtime | precision | agrees | to |", "| --- | --- | --- | --- | --- |"]
    good = whole = 0
    for title, make in sources(given.srgan, given.keras).items():
        generator = make()
        quantized = None
        if quantizable(generator.module()):
            inputs = [generator.example(seed=seed) for seed in range(3)]
            quantized = lg.quantize(generator, inputs)
        for name in names:
            runtime = runtimes.get(name)
            for form in (generator, quantized):
                if form is None:
                    continue
                for precision in runtime.precisions(quantized=form is quantized):
                    held, said = pair(form, runtime, precision)
                    good, whole = good + held, whole + 1
                    line = (
                        f"| {title} | {name} | {precision} | {'yes' if held else 'no'} | {said} |"
                    )
                    print(line, flush=True)
                    lines.append(line)
    print(f"{good} of {whole} pairs agree")
    if given.out:
        given.out.write_text("\n".join([*lines, "", f"{good} of {whole} pairs agree.", ""]))


if __name__ == "__main__":
    main()
