"""What to prune, how much, and by which measure: the settings of one pruning step."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.techniques.importance import CRITERIA
from leangan.techniques.prune_channels import prune_channels
from leangan.techniques.prune_weights import prune_weights

AMOUNTS = ("channels", "macs", "params", "weights")
WEIGHTS_BY = ("magnitude", "random")
"""How single weights are ranked."""
_CHANNELS_ONLY = ("uniform", "multiple", "reconstruct")
_WEIGHTS_ONLY = ("per_layer", "pattern")


@dataclass(frozen=True)
class PrunePlan:
    """One pruning step, with exactly one amount."""

    channels: float | None = None
    """Share of the prunable channels to remove."""
    macs: float | None = None
    """Share of the multiply-accumulates to leave."""
    params: float | None = None
    """Share of the parameters to leave."""
    weights: float | None = None
    """Share of the weights to set to zero, wherever they stand; no channel is removed."""
    by: str | None = None
    """A name of `importance.CRITERIA`, or of `WEIGHTS_BY` for single weights; the best when
    left out."""
    only: tuple[str, ...] = ()
    """Patterns of names to keep to."""
    uniform: bool = False
    """The same share in every group of channels."""
    multiple: int = 8
    """What kept widths are rounded to."""
    reconstruct: bool = True
    """Refit what reads the channels by least squares."""
    per_layer: bool = False
    """The same share of zeros in every layer."""
    pattern: str | None = None
    """N:M zeros along the inputs, for example "2:4"."""

    def __post_init__(self) -> None:
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"Give exactly one amount to prune, {', '.join(AMOUNTS)} or latency; given: "
                f"{' and '.join(given) or 'none'}."
            )
        name = given[0]
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UsageError(
                f"{name} is a share between 0 and 1, both excluded; {value!r} is none."
            )
        known = WEIGHTS_BY if name == "weights" else tuple(CRITERIA)
        if self.by is not None and self.by not in known:
            close = difflib.get_close_matches(str(self.by), known, 1)
            end = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}."
            kind = "weights are not ranked" if name == "weights" else "channels are not judged"
            raise UsageError(f"{kind.capitalize()} by {self.by!r}; {end}")
        wrong = _CHANNELS_ONLY if name == "weights" else _WEIGHTS_ONLY
        defaults = {f.name: f.default for f in fields(self)}
        for option in wrong:
            if getattr(self, option) != defaults[option]:
                kind = "single weights" if name == "weights" else "channels"
                raise UsageError(f"{option.replace('_', '-')} means nothing when {kind} go.")

    @property
    def needs_data(self) -> bool:
        """Whether real inputs must be run to choose or refit."""
        judged = self.weights is None and CRITERIA[self.by or next(iter(CRITERIA))].needs_data
        return judged or (self.weights is None and self.reconstruct)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON and YAML values; the inverse of `from_json`."""
        defaults = {f.name: f.default for f in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value != defaults[key]
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> PrunePlan:
        """Read what `to_json` wrote, or a person edited.

        Raises:
            UsageError: a key or value is wrong; it is named.
        """
        known = {f.name for f in fields(cls)}
        for key, value in facts.items():
            if key not in known:
                raise UsageError(
                    f"a pruning step has no {key!r}; it has {', '.join(sorted(known))}."
                )
            listed = isinstance(value, list) and all(isinstance(v, str) for v in value)
            if key == "only" and not listed:
                raise UsageError("'only' must be a list of names.")
            if key in ("uniform", "reconstruct", "per_layer") and not isinstance(value, bool):
                raise UsageError(f"{key!r} must be true or false.")
            if key == "multiple" and (isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError("'multiple' must be a whole number.")
            if key in ("by", "pattern") and not isinstance(value, str):
                raise UsageError(f"{key!r} must be text.")
        values: dict[str, Any] = {k: tuple(v) if k == "only" else v for k, v in facts.items()}
        return cls(**values)

    def apply(
        self,
        generator: Generator,
        samples: Sequence[tuple[Tensor, ...]] | None,
        seed: int,
        progress: Callable[..., None],
    ) -> Generator:
        """The pruned generator.

        Args:
            generator: float.
            samples: calibration inputs, None to make some up.
            seed: of whatever is drawn.
            progress: called as progress(message, done, total).

        Raises:
            UsageError: so little cannot be reached, or the generator is quantized already.
        """
        if self.weights is not None:
            progress("Setting weights to zero")
            return prune_weights(
                generator,
                self.weights,
                by="random" if self.by == "random" else "magnitude",
                scope="layer" if self.per_layer else "global",
                pattern=self.pattern,
                only=self.only or None,
                seed=seed,
            )
        return prune_channels(
            generator,
            self.channels,
            macs=self.macs,
            params=self.params,
            by=self.by or next(iter(CRITERIA)),
            data=samples,
            scope="uniform" if self.uniform else "global",
            reconstruct=self.reconstruct,
            multiple=self.multiple,
            only=self.only or None,
            seed=seed,
            progress=progress,
        )
