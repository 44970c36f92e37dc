"""In how many bits a layer is stored and computed, and how its numbers are chosen."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from leangan.errors import UsageError

Per = Literal["tensor", "channel", "group"]
Step = Literal["mse", "minmax", "percentile", "entropy"]
Range = Literal["output", "minmax", "percentile", "mse", "entropy", "search"]
Rounding = Literal["nearest", "feedback", "learned"]

FLOAT = "float"
"""The precision of a layer that is left alone."""
_WORD = re.compile(r"w([2-8])(?:a(8|16)|s(8))?")


@dataclass(frozen=True)
class Scheme:
    """How the weighted layers of a generator are quantized (Nagel et al. 2021, a white paper).

    Raises:
        UsageError: a value that there is not.
    """

    weight_bits: int = 8
    """2 to 8."""
    activation_bits: int | None = 8
    """8 or 16 for the inputs of layers; None leaves them float, so that only the file shrinks."""
    signed: bool = False
    """Activations without a zero point, with as many levels below zero as above where any value is
    negative; else they are affine. Kernels of CPUs with AMX take up to half the time so."""
    symmetric: bool = True
    """Weights without a zero point, as integer kernels want them; False is the affine scheme."""
    per: Per = "channel"
    """What has a step of its own: the whole weight, each output channel, or each `group`."""
    group: int = 32
    """Weights in a group, neighbours within an output channel; per "group" only."""
    step: Step = "mse"
    """Which step a group of weights takes: of the least squared error, of the largest weight, of a
    high percentile, of the least information lost (KL divergence)."""
    range: Range = "output"
    """Which range of inputs is covered. "output" tries several by what the generator's output
    suffers; the others look at the input alone, "search" at what the layer puts out of it
    (2DQuant, Liu et al. 2024)."""
    rounding: Rounding = "nearest"
    """"feedback" lets weights make up for the rounding of those before them (GPTQ, Frantar et al.
    2023), "learned" goes on from there to the least error of each layer's output (the objective
    of AdaRound, Nagel et al. 2020, by descent)."""
    equalize: bool = True
    """Scale input channels to like ranges before they are quantized, and the weights back."""

    def __post_init__(self) -> None:
        for name, kind in (("per", Per), ("step", Step), ("range", Range), ("rounding", Rounding)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"There is no {name} {getattr(self, name)!r}; choose from "
                    f"{', '.join(get_args(kind))}."
                )
        if self.weight_bits not in range(2, 9):
            raise UsageError(f"Weights have 2 to 8 bits; {self.weight_bits!r} was asked for.")
        if self.activation_bits not in (8, 16, None):
            raise UsageError(
                f"Activations have 8 or 16 bits, or stay float; {self.activation_bits!r} was "
                "asked for."
            )
        if self.signed and self.activation_bits != 8:
            raise UsageError("Activations without a zero point have 8 bits.")
        if self.group < 2:
            raise UsageError(f"A group has 2 or more weights; {self.group} was asked for.")

    @property
    def word(self) -> str:
        """The precision in short: "w8a8", "w8s8" if signed, "w8a16", "w4" with float inputs."""
        kind = "s" if self.signed else "a"
        activations = f"{kind}{self.activation_bits}" if self.activation_bits else ""
        return f"w{self.weight_bits}{activations}"

    def at(self, word: str) -> Scheme:
        """The same scheme in another precision.

        Raises:
            UsageError: the word is none.
        """
        weight_bits, activation_bits, signed = parse_word(word)
        return replace(
            self, weight_bits=weight_bits, activation_bits=activation_bits, signed=signed
        )


def parse_word(word: str) -> tuple[int, int | None, bool]:
    """Bits of weights and of activations, None for float ones, and whether those are signed.

    Raises:
        UsageError: the word is none, or "float".
    """
    match = _WORD.fullmatch(word)
    if not match:
        raise UsageError(
            f"{word!r} is no precision; they are like w8a8, w8s8 (activations without a zero "
            f"point), w8a16, w4a8, or w4 where only weights have few bits, or {FLOAT}."
        )
    bits = match[2] or match[3]
    return int(match[1]), int(bits) if bits else None, match[3] is not None
