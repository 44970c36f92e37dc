"""Set the least important weights to zero.

Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks
(NeurIPS 2015). Zeros make a file smaller (leangan stores them as a bitmask, see compact.py); no
CPU runtime computes faster for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.weights import StoredWeight, stored_weights, with_weights
from leangan.techniques.order import refuse_quantized

_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


def prune_weights(
    generator: Generator,
    amount: float | None = None,
    *,
    by: Literal["magnitude", "random"] = "magnitude",
    scope: Literal["global", "layer"] = "global",
    pattern: str | None = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
) -> Generator:
    """Set a share of the weights of convolutions and linear layers to zero.

    The zeros stand in the weights themselves: no mask is kept. Weights that are zero already
    count and stay so, so that pruning step by step to a higher amount is well defined. Biases,
    norms and other vectors are never touched. A weight that several layers share is pruned once.

    Args:
        generator: float, not quantized.
        amount: the share of the chosen weights that is zero afterwards, between 0 and 1, exact to
            one weight. Left out with a pattern, which says it.
        by: "magnitude" removes the smallest absolute values; "random" is the control.
        scope: "global" ranks the weights of all chosen layers together, "layer" each alone.
        pattern: "N:M" keeps N of every M neighbours along the input axis, at each place of the
            kernel alone (2:4 is what NVIDIA's sparse tensor cores want). What is left over at the
            end of an axis keeps its share, rounded up.
        only: kinds of layers or patterns of their names, with * and ?: ("linear",), ("conv*",),
            ("model.1*",). All when not given.
        seed: for "random".

    Returns:
        The pruned generator. Its step "prune_weights" says how many zeros each layer has.

    Raises:
        UsageError: the amount, the pattern or `only` makes no sense; the generator is quantized.
        LeanganError: there is no layer with stored weights.
    """
    refuse_quantized(generator, "Prune weights")
    kept = _read(amount, by, scope, pattern)
    weights = _chosen(generator, only)
    rng = torch.Generator().manual_seed(seed)
    scores = [_score(w.tensor, by, rng) for w in weights]
    if kept is not None:
        masks = [_neighbours(s, w.in_axis, *kept) for s, w in zip(scores, weights, strict=True)]
    elif scope == "layer":
        masks = [_largest(s, amount or 0.0) for s in scores]
    else:
        masks = _split(_largest(torch.cat([s.flatten() for s in scores]), amount or 0.0), scores)
    # Not a product: that makes negative zeros of negative weights.
    new = {w.path: torch.where(m, w.tensor, 0.0) for w, m in zip(weights, masks, strict=True)}
    zeros = {w.name: int((new[w.path] == 0).sum()) for w in weights}
    total = sum(w.tensor.numel() for w in weights)
    settings = {
        "amount": amount if kept is None else 1 - kept[0] / kept[1],
        "by": by,
        "scope": scope,
        "pattern": pattern,
        "only": list(only) if only is not None else None,
        "seed": seed,
    }
    measured = {"zeros": zeros, "weights": total, "share": sum(zeros.values()) / total}
    step = Step("prune_weights", settings, measured)
    return generator.then(with_weights(generator, new), step)


def cubic_sparsity(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """The share of zeros at a training step, rising fast first and slowly at the end.

    Zhu and Gupta: To prune, or not to prune (arXiv:1710.01878), equation 1.

    Args:
        step: the present one.
        begin: the step at which pruning begins; `initial` before it.
        end: the step from which on the share is `final`; after `begin`.
        initial: share of zeros at the start, 0 to 1.
        final: share of zeros at the end, `initial` to 1.
    """
    if not begin < end or not 0 <= initial <= final <= 1:
        raise UsageError("A schedule needs begin < end and 0 <= initial <= final <= 1.")
    left = 1 - min(max((step - begin) / (end - begin), 0.0), 1.0)
    return final + (initial - final) * left**3


def _read(amount: float | None, by: str, scope: str, pattern: str | None) -> tuple[int, int] | None:
    """The pattern as numbers, None for an unstructured amount."""
    if by not in ("magnitude", "random"):
        raise UsageError(f"Weights are ranked by magnitude or random, not by {by!r}.")
    if scope not in ("global", "layer"):
        raise UsageError(f"There is no scope {scope!r}; choose global or layer.")
    if pattern is None:
        if amount is None or not 0 < amount < 1:
            raise UsageError(f"The share of zeros must be between 0 and 1; it is {amount}.")
        return None
    found = _PATTERN.fullmatch(pattern)
    if not found or not int(found[1]) < int(found[2]):
        raise UsageError(f"A pattern is N:M with N below M, such as 2:4; {pattern!r} is none.")
    kept, of = int(found[1]), int(found[2])
    if amount is not None and abs(amount - (1 - kept / of)) > 1e-6:
        raise UsageError(
            f"{pattern} makes {1 - kept / of:g} of the weights zero, not {amount:g}: leave the "
            "amount out."
        )
    return kept, of


def _score(weight: Tensor, by: str, rng: torch.Generator) -> Tensor:
    size = weight.detach().abs().double()
    if by == "magnitude":
        return size
    # What is zero already goes first again.
    return torch.where(size > 0, 1 + torch.rand(weight.shape, generator=rng, dtype=size.dtype), 0)


def _largest(scores: Tensor, amount: float) -> Tensor:
    """True for all but exactly the given share of the lowest scores."""
    flat = scores.flatten()
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask[flat.argsort(stable=True)[: round(amount * flat.numel())]] = False
    return mask.reshape(scores.shape)


def _split(mask: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = mask.split([s.numel() for s in like])
    return [p.reshape(s.shape) for p, s in zip(parts, like, strict=True)]


def _neighbours(scores: Tensor, axis: int, kept: int, of: int) -> Tensor:
    """True for the `kept` highest of every `of` neighbours along `axis`."""
    lined = scores.movedim(axis, -1)
    mask = torch.zeros_like(lined, dtype=torch.bool)
    for part, chosen in zip(lined.split(of, -1), mask.split(of, -1), strict=True):
        count = -(-part.shape[-1] * kept // of)
        chosen.scatter_(-1, part.topk(count, -1).indices, True)
    return mask.movedim(-1, axis)


def _chosen(generator: Generator, only: Sequence[str] | None) -> list[StoredWeight]:
    weights = stored_weights(generator, generator.module())
    for pattern in only or ():
        if not any(_matches(w, pattern) for w in weights):
            kinds = ", ".join(sorted({w.kind for w in weights}))
            raise UsageError(
                f"{generator.name} has no layer {pattern!r}; its kinds are {kinds}, and `leangan "
                "inspect --layers` lists the names."
            )
    return [w for w in weights if only is None or any(_matches(w, p) for p in only)]


def _matches(weight: StoredWeight, pattern: str) -> bool:
    return fnmatchcase(weight.kind, pattern) or fnmatchcase(weight.name, pattern)
