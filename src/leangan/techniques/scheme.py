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
_WORD = re.compile(r"w([2-8])(?:a(8|16))?")


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
    symmetric: bool = True
    """Weights without a zero point, as integer kernels want them; False is the affine scheme.
    Activations are affine always."""
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
        if self.group < 2:
            raise UsageError(f"A group has 2 or more weights; {self.group} was asked for.")

    @property
    def word(self) -> str:
        """The precision in short: "w8a8", "w8a16", "w4" where activations stay float."""
        activations = f"a{self.activation_bits}" if self.activation_bits else ""
        return f"w{self.weight_bits}{activations}"

    def at(self, word: str) -> Scheme:
        """The same scheme in another precision.

        Raises:
            UsageError: the word is none.
        """
        weight_bits, activation_bits = parse_word(word)
        return replace(self, weight_bits=weight_bits, activation_bits=activation_bits)


def parse_word(word: str) -> tuple[int, int | None]:
    """Bits of weights and of activations, None for float ones.

    Raises:
        UsageError: the word is none, or "float".
    """
    match = _WORD.fullmatch(word)
    if not match:
        raise UsageError(
            f"{word!r} is no precision; they are like w8a8, w8a16, w4a8, or w4 where only weights "
            f"have few bits, or {FLOAT}."
        )
    return int(match[1]), int(match[2]) if match[2] else None
