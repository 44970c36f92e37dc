"""Feature maps of kept and removed channels, so that a person sees why some could go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from leangan.generator import Generator
from leangan.graph.channels import Coupling, Group, Reader
from leangan.graph.observe import observe
from leangan.tasks.preview import to_data_uri

Inputs = tuple[Tensor, ...]

_GROUPS = 4
_KEPT = 6
_REMOVED = 4
_ROWS = 8192
"""Positions of each sample that the least squares look at."""
_SIDE = 112
"""Pixels a side of a drawn map; smaller maps are enlarged, pixel by pixel."""
_POINTS = 160
"""Points of a drawn line."""


@dataclass
class _Keeper:
    """Keeps the last value that was seen."""

    value: Tensor | None = None

    def see(self, value: Tensor) -> None:
        self.value = value.detach().clone()


@dataclass
class _Sums:
    """Means and covariance of maps over the positions of several samples."""

    reader: Reader
    count: int = 0
    total: Tensor | None = None
    square: Tensor | None = None

    def see(self, value: Tensor) -> None:
        rows = _maps(value, self.reader).flatten(1).t().double()
        if len(rows) > _ROWS:
            rows = rows[torch.linspace(0, len(rows) - 1, _ROWS).long()]
        self.count += len(rows)
        self.total = rows.sum(0) + (0 if self.total is None else self.total)
        self.square = rows.t() @ rows + (0 if self.square is None else self.square)


def draw_groups(
    original: Generator,
    coupling: Coupling,
    keep: Mapping[str, Sequence[int]],
    fitted_on: Sequence[Inputs],
    shown_on: Inputs,
) -> list[dict[str, Any]]:
    """Pictures of what the layers behind some groups read, of kept and of removed channels.

    Args:
        original: before pruning.
        coupling: of it.
        keep: per group that lost some the kept channels.
        fitted_on: the removed maps are explained by the kept ones, by least squares on these.
        shown_on: another input, of batch 1, whose maps are drawn.

    Returns:
        For up to four groups, spread over the network: {"group", "width", "kept", "constant"
        (how many of the removed maps are the same everywhere), "explained" (the share of the
        removed maps' variance that the kept ones explain on `shown_on`), "shape" ("64 x 64"),
        "kept_maps": [{"channel", PICTURE}], "removed_maps": [{"channel", "explained" (of this
        map, None when constant), PICTURE, "by": {PICTURE}}]}, where PICTURE is "png", a data URI,
        for maps of two dimensions, or "line", numbers from 0 to 1.
    """
    groups = _chosen([g for g in coupling.groups if g.name in keep and g.readers])
    if not groups:
        return []
    module = original.module()
    sums = {g.name: _Sums(g.readers[0]) for g in groups}
    shown = {g.name: _Keeper() for g in groups}
    if fitted_on:
        observe(module, fitted_on, _by_source(groups, sums))
    observe(module, [shown_on], _by_source(groups, shown))
    drawn = []
    for group in groups:
        value = shown[group.name].value
        assert value is not None
        seen = sums[group.name]
        if not fitted_on:
            seen.see(value)
        drawn.append(_draw(group, list(keep[group.name]), seen, _maps(value, group.readers[0])))
    return drawn


def _chosen(groups: Sequence[Group]) -> list[Group]:
    """Spread over the network, the first and the last among them."""
    count = min(_GROUPS, len(groups))
    places = torch.linspace(0, len(groups) - 1, count).round().int().tolist() if count else []
    return [groups[i] for i in dict.fromkeys(places)]


def _by_source(groups: Sequence[Group], observers: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for group in groups:
        found.setdefault(group.readers[0].source, []).append(observers[group.name])
    return found


def _maps(value: Tensor, reader: Reader) -> Tensor:
    """(channels, batch, positions of the channel, *other axes) of what an operator reads."""
    channels_first = value.movedim(reader.axis, 0)
    most = max(map(len, reader.positions))
    places = torch.tensor([(row * most)[:most] or (0,) * most for row in reader.positions])
    maps = channels_first[places]  # (channels, places, batch, ...)
    return maps.movedim(1, 2) if maps.dim() > 2 else maps[:, None]


def _draw(group: Group, kept: list[int], sums: _Sums, maps: Tensor) -> dict[str, Any]:
    kept_set = set(kept)
    removed = [c for c in range(group.width) if c not in kept_set]
    rows = maps.flatten(1).double()
    explained = _explain(sums, rows, kept, removed)
    truth = rows[removed]
    error = (truth - explained).square().mean(1)
    spread = truth.var(1, unbiased=False)
    lively = rows.var(1, unbiased=False)
    constant = spread < 1e-9 * float(lively.max())
    scores = (1 - error / spread.clamp_min(1e-30)).clamp(0, 1)
    order = [i for i in scores.argsort(descending=True).tolist() if not constant[i]]
    picked = constant.nonzero().flatten().tolist()[:1]
    if order:
        picked += dict.fromkeys([*order[:2], order[len(order) // 2], order[-1]])
    picked = picked[: _REMOVED - 1] + picked[-1:] if len(picked) > _REMOVED else picked
    best = sorted(kept, key=lambda c: -float(lively[c]))[:_KEPT]
    first = maps[:, 0]
    # Maps of next to no contrast would look like noise at their own scale.
    least = 0.05 * float(rows.amax(1).sub(rows.amin(1)).max())

    def draw(values: Tensor, scale: Tensor) -> dict[str, Any]:
        return _picture(values, scale, least)

    return {
        "group": group.name,
        "width": group.width,
        "kept": len(kept),
        "constant": int(constant.sum()),
        "explained": float((1 - error.sum() / spread.sum().clamp_min(1e-30)).clamp(0, 1)),
        "shape": " x ".join(map(str, _frame(first[0]).shape)),
        "kept_maps": [{"channel": c, **draw(first[c], first[c])} for c in sorted(best)],
        "removed_maps": [
            {
                "channel": removed[i],
                "explained": None if constant[i] else float(scores[i]),
                **draw(first[removed[i]], first[removed[i]]),
                "by": draw(explained[i].reshape(maps.shape[1:])[0].float(), first[removed[i]]),
            }
            for i in picked
        ],
    }


def _explain(sums: _Sums, rows: Tensor, kept: list[int], removed: list[int]) -> Tensor:
    """The removed maps as least squares make them of the kept ones and a constant."""
    assert sums.total is not None
    assert sums.square is not None
    mean = sums.total / sums.count
    covariance = sums.square / sums.count - torch.outer(mean, mean)
    inner = covariance[kept][:, kept]
    ridge = 1e-6 * float(inner.diagonal().mean()) + 1e-12
    inner = inner + ridge * torch.eye(len(kept), dtype=inner.dtype)
    factors = torch.linalg.solve(inner, covariance[kept][:, removed])
    return factors.t() @ (rows[kept] - mean[kept, None]) + mean[removed, None]


def _frame(values: Tensor) -> Tensor:
    """One channel's (positions, *axes) as a picture (H, W) or a line (T)."""
    if values.dim() == 3 and values.shape[0] > 1:  # phases of a shuffle: the first stands for all
        values = values[:1]
    squeezed = values.squeeze()
    if squeezed.dim() == 1:
        side = round(len(squeezed) ** 0.5)
        rows_of_a_view = values.dim() == 1 and side * side == len(squeezed) and side > 1
        return squeezed.reshape(side, side) if rows_of_a_view else squeezed
    return squeezed if squeezed.dim() else squeezed.reshape(1)


def _picture(values: Tensor, scale: Tensor, least: float) -> dict[str, Any]:
    """Drawn from dark to light over the range of `scale`, and no less than `least`."""
    frame, limits = _frame(values.nan_to_num()), _frame(scale.nan_to_num())
    low, high = float(limits.min()), float(limits.max())
    shade = ((frame - low) / max(high - low, least, 1e-12)).clamp(0, 1)
    if frame.dim() == 1:
        points = F.interpolate(shade[None, None].float(), min(_POINTS, len(shade)), mode="linear")
        return {"line": [round(float(v), 3) for v in points[0, 0]]}
    plane = shade.reshape(-1, *shade.shape[-2:])[0].float()
    zoom = max(1, -(-_SIDE // max(plane.shape)))
    plane = plane.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    picture = Image.fromarray((plane * 255).round().to(torch.uint8).numpy())
    if max(picture.size) > 2 * _SIDE:
        picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    return {"png": to_data_uri(picture)}
