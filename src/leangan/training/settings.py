"""How long and how fast to train."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from leangan.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one run; the same ones, and the same threads, give the same weights.

    Raises:
        UsageError: a value makes no sense.
    """

    steps: int | None = None
    """Batches to learn from."""
    seconds: float | None = None
    """Or for how long; the rate falls with the time that is left, so that results then depend on
    the machine."""
    batch: int = 8
    """Examples per step, over all processes together."""
    lr: float | None = None
    """The highest learning rate of Adam (Kingma and Ba 2015); it warms up, then falls to zero
    along a cosine (Loshchilov and Hutter 2017). By what is trained when left out."""
    beta: float = 0.9
    """Adam's decay of the mean gradient; 0.5 where a discriminator learns beside."""
    warmup: float = 0.02
    """Share of the run in which the rate rises from zero."""
    clip: float = 1.0
    """The largest norm of a gradient; larger ones are scaled down."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is delivered; 0 delivers the last ones."""
    precision: Precision = "auto"
    """Of forward and backward passes; "auto" takes the faster of float32 and bfloat16, measured.
    Weights and Adam's moments are float32 always."""
    seed: int = 0
    """Of the examples, their order, and whatever is drawn."""
    examples: int | None = None
    """Examples to prepare, with the teacher's outputs; by the length of the run when left out."""
    save_every: float = 60.0
    """Seconds between checkpoints."""
    show_every: float = 120.0
    """Seconds between sheets of samples."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise UsageError("Say how long to train: either steps or time.")
        for name in ("steps", "seconds", "batch", "lr", "clip", "examples"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above 0; it is {value}.")
        for name in ("ema", "warmup", "beta"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is a share of at least 0 and below 1.")
        if self.precision not in get_args(Precision):
            raise UsageError(
                f"There is no precision {self.precision!r}; choose from "
                f"{', '.join(get_args(Precision))}."
            )

    def rate(self, share: float) -> float:
        """The learning rate when `share` of the run is over; 0 at its end."""
        assert self.lr is not None
        if share < self.warmup:
            return self.lr * share / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup)))

    def to_json(self) -> dict[str, Any]:
        """As in a run's settings.json."""
        return asdict(self)


def read_time(text: str) -> float:
    """Seconds of "90s", "30m" or "2h".

    Raises:
        UsageError: it is none of these.
    """
    match = _TIME.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"{text!r} is no time; write for example 90s, 30m or 2h.")
    return float(match[1]) * _SECONDS[match[2]]
