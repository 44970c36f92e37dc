"""Put weights into a network, all of them or none, and name whatever does not match."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from leangan.architectures.base import with_counters
from leangan.errors import LeanganError

_SHOWN = 4


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `module` strictly; half precision becomes float32.

    Args:
        module: left as it was when the weights do not match.
        state: a tensor for every name of the module's own state dict, and no other. Batch
            counters may be missing: inference does not use them.
        source: the file, for messages.

    Raises:
        LeanganError: names are missing or unexpected, or shapes differ; they are named.
    """
    own = module.state_dict()
    given = with_counters(state, own)
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    different = [
        f"{name} is {list(given[name].shape)}, needed {list(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    complaints = [
        *_depths(own, given),
        *_listed("missing", missing),
        *_listed("unexpected", unexpected),
        *_listed("of another shape", different),
    ]
    if complaints:
        raise LeanganError(
            f"The weights in {source} do not fit {type(module).__name__}: {'; '.join(complaints)}."
        )
    module.load_state_dict(
        {n: t.float() if t.is_floating_point() else t for n, t in given.items()}, strict=True
    )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def _depths(own: Collection[str], given: Collection[str]) -> list[str]:
    """Where a list of layers has another length in the file than in the network."""
    built, found = _lengths(own), _lengths(given)
    return [
        f"{prefix} has {found[prefix]} layers in the file and {built[prefix]} in the network"
        for prefix in built
        if prefix in found and found[prefix] != built[prefix]
    ][:_SHOWN]


def _lengths(names: Collection[str]) -> dict[str, int]:
    """For every list of layers that names such as `body.5.conv.weight` speak of, its length."""
    numbers: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for n, part in enumerate(parts):
            if n and part.isdecimal():
                numbers.setdefault(".".join(parts[:n]), set()).add(part)
    return {prefix: len(found) for prefix, found in numbers.items()}
