"""A checkpoint of a known architecture: find the weights, recognise the network, fill it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leangan.architectures import recognise, sample, try_recognise
from leangan.architectures.base import Architecture, Part, fit, share_in_common, with_counters
from leangan.architectures.reparameterized import plain_weights
from leangan.errors import LeanganError, UsageError
from leangan.sources.candidates import Candidate, candidates, unwrapped, views
from leangan.sources.fill import fill
from leangan.sources.tensors import read_tensors

_WEIGHT_NORM = (
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)


@dataclass(frozen=True)
class Found:
    """The weights that were asked for, out of all that a checkpoint holds."""

    state: dict[str, Tensor]
    """Names without the prefixes of wrappers."""
    where: str
    """The keys that lead to it, for example "params_ema"; empty for the top of the file."""
    notes: tuple[str, ...] = ()
    """What was chosen and what was left out, in words."""
    module: nn.Module | None = None
    """The network itself, when the file was a pickle of one."""


@dataclass(frozen=True)
class _Match:
    """A candidate under the names that fit best."""

    candidate: Candidate
    state: dict[str, Tensor]
    note: str
    fit: float
    """1 when the weights fit exactly."""
    family: str = ""


def load_checkpoint(
    path: Path,
    *,
    part: str = "generator",
    trust: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Architecture | None, dict[str, Any], Found]:
    """Build the network that a weights file belongs to, with its weights, in eval mode.

    Args:
        path: anything that `read_tensors` reads.
        part: "generator" or "discriminator", or the key of one set of weights where a file
            holds several ("netG_A").
        trust: whether the file may run code.
        arguments: constructor arguments that replace those read off the file, for what no key
            tells (a vocoder's dilations, an MLP's activations).

    Returns:
        The network, its family, the arguments it was built with, and what was found. Family and
        arguments are None and empty for a pickled network (`trust`), which brings its own class.

    Raises:
        UnsafeFile: the file would run code.
        LeanganError: the network is not known, the wanted part is not in the file or is there
            more than once, or weights are missing, unexpected, or of another shape.
        UsageError: an argument that the family does not have.
    """
    found = _of_file(path, part, trust, None)
    if found.module is not None:
        if arguments:
            raise UsageError(f"{path} is a whole network; it takes no constructor arguments.")
        return found.module.eval(), None, {}, found
    family, values = recognise(found.state, _family_part(part))
    for name, value in (arguments or {}).items():
        if name not in values and name not in family.assumed:
            known = ", ".join(dict.fromkeys([*values, *family.assumed]))
            raise UsageError(f"{family.name} has no argument {name!r}; it has {known}.")
        values[name] = value
    try:
        module = family.build(**values)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{family.name} cannot be built with {values}: {error}") from error
    fill(module, family.rename(plain_weights(found.state), values), str(path))
    caution = family.caution(values)
    notes = (*found.notes, family.describe(values), *([caution] if caution else []))
    return module.eval(), family, values, replace(found, notes=notes)


def load_weights(
    module: nn.Module, path: Path, *, part: str = "generator", trust: bool = False
) -> Found:
    """Fill a network of the user's own class from a weights file, strictly.

    Prefixes on either side are bridged (DataParallel saved, plain class built, or the reverse).

    Raises:
        UnsafeFile, LeanganError: as for `load_checkpoint`.
    """
    found = _of_file(path, part, trust, module)
    fill(module, found.state, str(path))
    return found


def _of_file(path: Path, part: str, trust: bool, module: nn.Module | None) -> Found:
    checkpoint = read_tensors(path, trust)
    try:
        return find_state(checkpoint, part, module=module)
    except LeanganError as error:
        raise type(error)(f"{path}: {error}") from error


def find_state(
    checkpoint: Any, part: str = "generator", *, module: nn.Module | None = None
) -> Found:
    """The weights of one part of a GAN, wherever they are in what `torch.load` returned.

    An exponential moving average is preferred, as in the papers' own evaluations.

    Args:
        checkpoint: dictionaries of tensors, nested in any way, or a pickled nn.Module.
        part: "generator", "discriminator", or the key of one set of weights.
        module: the network that is to be filled; a known family is looked for when None.

    Raises:
        LeanganError: nothing fits, or several sets do; they are listed.
    """
    everything = candidates(checkpoint)
    if not everything:
        raise LeanganError("there are no weights in it.")
    wanted = [c for c in everything if _may_be(c, part)]
    if not wanted:
        raise LeanganError(f"there is no {part} in it; it holds {_names(everything)}.")
    matches = [m for m in (_match(c, part, module) for c in wanted) if m is not None]
    if not matches:
        raise _nothing_known(wanted, part, module)
    best = _choose(matches, part)
    chosen = best.candidate
    notes = [f"weights taken from {chosen.where!r}"] if chosen.where else []
    others = dict.fromkeys(c.where for c in everything if c.where and c.where != chosen.where)
    if chosen.ema:
        notes[-1] += ", an exponential moving average"
    if notes and others:
        notes[-1] += f" (also in the file: {', '.join(others)})"
    if best.note:
        notes.append(best.note)
    dtypes = {t.dtype for t in best.state.values() if t.is_floating_point()} - {torch.float32}
    notes += [f"stored as {str(d).removeprefix('torch.')}, converted to float32" for d in dtypes]
    state = {n: t.float() if t.is_floating_point() else t for n, t in best.state.items()}
    return Found(state, chosen.where, tuple(notes), None if module else chosen.module)


def _may_be(candidate: Candidate, part: str) -> bool:
    if part in ("generator", "discriminator"):
        return candidate.part in (part, None)
    return part == candidate.where or part in candidate.where.split(".")


def _family_part(part: str) -> Part | None:
    return "discriminator" if part == "discriminator" else None


def _match(candidate: Candidate, part: str, module: nn.Module | None) -> _Match | None:
    """The view of a candidate that fits best, None when none does."""
    if candidate.module is not None and module is None:
        if part == "discriminator" and candidate.part != part:
            return None
        return _Match(candidate, dict(candidate.state), "", 1.0)
    best = None
    for state, note in views(candidate.state):
        match = (
            _of_family(candidate, state, note, part)
            if module is None
            else _of_module(candidate, state, note, module)
        )
        if match is not None and (best is None or match.fit > best.fit):
            best = match
        if best is not None and best.fit == 1:
            break
    return best


def _of_family(
    candidate: Candidate, state: dict[str, Tensor], note: str, part: str
) -> _Match | None:
    known = try_recognise(state, _family_part(part))
    if known is None or (part == "generator" and known[0].part == "discriminator"):
        return None
    return _Match(candidate, state, note, fit(*known, plain_weights(state)), known[0].name)


def _of_module(
    candidate: Candidate, state: dict[str, Tensor], note: str, module: nn.Module
) -> _Match | None:
    """Under the module's names; None when less than half of the smaller side is in the other."""
    own = {_canonical(name): name for name in module.state_dict()}
    named = {own.get(_canonical(name), name): tensor for name, tensor in state.items()}
    common = sum(name in named for name in own.values())
    if len(named) != len(state) or 2 * common < min(len(own), len(named)):
        return None
    wanted = dict.fromkeys(own.values())
    given = with_counters(dict.fromkeys(named), wanted)
    return _Match(candidate, named, note, share_in_common(wanted, given))


def _canonical(name: str) -> str:
    """Without wrappers, and weight normalization in its present names."""
    name = unwrapped(name)
    for old, new in _WEIGHT_NORM:
        name = old.sub(new, name)
    return name


def _choose(matches: list[_Match], part: str) -> _Match:
    """By name, then the moving average, then the fit; what is left must be one."""
    matches = [m for m in matches if m.candidate.part == part] or matches
    matches = [m for m in matches if m.candidate.ema] or matches
    matches = [m for m in matches if not any(_replaces(other, m) for other in matches)]
    # A damaged second network of the same family stays, and is asked about: that the other one
    # is whole does not make it the one that was meant.
    whole = {m.family for m in matches if m.fit == 1}
    matches = [m for m in matches if m.fit == 1 or m.family in whole] or matches
    first, *others = matches
    for other in others:
        if not _same(first.state, other.state):
            raise LeanganError(
                f"it holds several sets of weights that could be meant: "
                f"{_names([m.candidate for m in matches])}; "
                f"name one with --part {other.candidate.where} (part=...)."
            )
    return first


def _replaces(better: _Match, match: _Match) -> bool:
    """Whether one is a part of the other and fits better; of pickled networks, the outer one."""
    a, b = better.candidate, match.candidate
    if better is match or not (_inside(a.where, b.where) or _inside(b.where, a.where)):
        return False
    if better.fit == match.fit:
        return a.module is not None and len(a.where) < len(b.where)
    return better.fit > match.fit


def _inside(inner: str, outer: str) -> bool:
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _names(found: list[Candidate]) -> str:
    return ", ".join(dict.fromkeys(c.where or "weights at its top" for c in found))


def _nothing_known(wanted: list[Candidate], part: str, module: nn.Module | None) -> LeanganError:
    largest = max(wanted, key=lambda c: sum(t.numel() for t in c.state.values()))
    if module is not None:
        return LeanganError(
            f"its weights are those of another network than {type(module).__name__}: it has "
            f"{sample(largest.state)}, needed {sample(module.state_dict())}."
        )
    if part == "generator":
        for state, _ in views(largest.state):
            known = try_recognise(state)
            if known is not None:
                return LeanganError(
                    f"this is a discriminator ({known[0].name}); load it with "
                    '--part discriminator (part="discriminator").'
                )
    try:
        recognise(largest.state, _family_part(part))
    except LeanganError as error:
        return error
    raise AssertionError("recognised after all")
