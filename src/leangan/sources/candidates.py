"""List every set of weights that a checkpoint holds, at any nesting, and say what each may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

WRAPPERS = ("module", "_orig_mod", "_forward_module")
"""What DataParallel, torch.compile and Fabric put into names, in front or in the middle."""
_CONTAINERS = (*WRAPPERS, "model", "net", "network", "state_dict")
_BEFORE = r"(?:ema_|best_|(?:[Nn]et|model|state_dict|params|weights)_?)?"
_AFTER = r"(?=$|[_\-A-Z0-9])"
_GENERATOR = re.compile(_BEFORE + r"(?:[Gg](?!AN)|[Gg]en|[Gg]enerator)" + _AFTER)
_DECODER = re.compile(r"(?:dec|decoder|vocoder)$")
_DISCRIMINATOR = re.compile(
    _BEFORE + r"(?:[Dd]|[Dd]isc|[Dd]iscriminator|mpd|msd|[Cc]ritic)" + _AFTER
)
_EMA = re.compile(r"(?:^|[_\-])(?:ema|shadow)(?:$|[_\-])|^g_running$", re.IGNORECASE)
_HALVES, _WHOLE = ("mpd", "msd"), "mpd_msd"
"""HiFi-GAN keeps its discriminators by periods and by scales apart; they judge together."""
_NO_WEIGHTS = re.compile(r"optim|sched|scaler", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """One set of weights in a checkpoint."""

    where: str
    """The keys that lead to it, joined by dots; empty for the top."""
    state: Mapping[str, Tensor]
    part: Literal["generator", "discriminator"] | None
    """What the keys on the way say that it is."""
    ema: bool
    """Whether they say that it is an exponential moving average."""
    module: nn.Module | None = None
    """The live network, where the file was a pickle of one."""


def candidates(checkpoint: Any) -> list[Candidate]:
    """All sets of weights, outer ones first. Optimizers and plain numbers are passed over."""
    return list(_walk(checkpoint, ()))


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[Candidate]:
    if isinstance(value, nn.Module):
        yield from _modules(value, path)
    elif isinstance(value, Mapping):
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield _candidate(path, tensors)
            yield from _groups(tensors, path)
        for key, item in _joined(value).items():
            if isinstance(key, str) and not _NO_WEIGHTS.search(key):
                yield from _walk(item, (*path, key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _walk(item, (*path, str(place)))


def _modules(module: nn.Module, path: tuple[str, ...]) -> Iterator[Candidate]:
    """A pickled network, or the parts of a pickled whole GAN."""
    if isinstance(module, nn.DataParallel):
        module = module.module
    yield _candidate(path, module.state_dict(), module)
    for name, child in module.named_children():
        if _GENERATOR.match(name) or _DISCRIMINATOR.match(name):
            yield _candidate((*path, name), child.state_dict(), child)


def _groups(tensors: Mapping[str, Tensor], path: tuple[str, ...]) -> Iterator[Candidate]:
    """The parts of a flat dictionary with names such as `generator_ema.body.0.weight`."""
    if path[-1:] == (_WHOLE,):
        return
    groups: dict[str, dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        head = next((n for n, p in enumerate(parts) if p not in _CONTAINERS), len(parts))
        if head < len(parts) - 1 and (_part(parts[head]) or _EMA.search(parts[head])):
            groups.setdefault(parts[head], {})[".".join(parts[head + 1 :])] = tensor
        else:
            rest[name] = tensor
    for head_name, group in _joined(groups).items():
        yield _candidate((*path, head_name), group)
        yield from _groups(group, (*path, head_name))
    if groups and rest:
        yield _candidate(path, rest)


def _joined(parts: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """With the halves of one discriminator, where both are there, as one under their names."""
    if not all(isinstance(parts.get(half), Mapping) for half in _HALVES):
        return parts
    whole = {f"{half}.{name}": x for half in _HALVES for name, x in parts[half].items()}
    return {**{key: item for key, item in parts.items() if key not in _HALVES}, _WHOLE: whole}


def _candidate(
    path: tuple[str, ...], state: Mapping[str, Tensor], module: nn.Module | None = None
) -> Candidate:
    parts = [p for p in map(_part, path) if p]
    ema = any(_EMA.search(key) for key in path)
    return Candidate(".".join(path), state, parts[-1] if parts else None, ema, module)


def _part(name: str) -> Literal["generator", "discriminator"] | None:
    if _DISCRIMINATOR.match(name):
        return "discriminator"
    return "generator" if _GENERATOR.match(name) or _DECODER.match(name) else None


def views(state: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], str]]:
    """The same weights under ever shorter names, each with a note on what was left out.

    First as they are; then without the names of wrappers; then without first names that all
    share, one after the other; last without `netG.`, `generator.` and the like on some names
    only. A view in which two weights would get one name is passed over.
    """
    yield dict(state), ""
    plain = _renamed(state, unwrapped)
    if plain is None:
        plain = dict(state)
    elif set(plain) != set(state):
        yield plain, "names of wrappers (module, _orig_mod) left out"
    shorter, dropped = plain, ""
    while len(firsts := {name.partition(".")[0] for name in shorter}) == 1 and all(
        "." in name for name in shorter
    ):
        dropped += firsts.pop() + "."
        shorter = {name.partition(".")[2]: tensor for name, tensor in shorter.items()}
        yield shorter, f"prefix {dropped!r} left out"
    some = _renamed(plain, _without_part_name)
    if some is not None and set(some) != set(plain):
        yield some, "prefixes of the generator left out where weights had them"


def unwrapped(name: str) -> str:
    """A weight's name without what wrappers put into it, at its start or in the middle."""
    return ".".join(p for p in name.split(".") if p not in WRAPPERS)


def _without_part_name(name: str) -> str:
    first, _, rest = name.partition(".")
    return rest if rest and (_GENERATOR.match(first) or first in _CONTAINERS) else name


def _renamed(state: Mapping[str, Tensor], change: Any) -> dict[str, Tensor] | None:
    renamed = {change(name): tensor for name, tensor in state.items()}
    return renamed if len(renamed) == len(state) else None
