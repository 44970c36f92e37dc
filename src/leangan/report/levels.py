"""Histograms of weights with the levels that they are rounded to, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

_WIDTH, _BARS, _ROW = 900, 84, 26
"""Of the drawing: it is stretched to the width that there is, and keeps its height in pixels."""
_LINES = 33
"""Up to so many levels are drawn through the histogram too."""
_DRAWN = 3
"""Histograms that are open: so many of the costliest layers, and of the largest."""
_FEW = 64
"""With more levels in even steps only every sixteenth is drawn, and the two ends."""


def section(summary: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What quantized.html.j2 needs, for the page of `quantize` and for the report of `compress`.

    Args:
        summary: as `techniques.describe_quantized.summarize` gives it.
        layers: as `techniques.describe_quantized` has them, as plain values.
    """
    drawn = [layer for layer in layers if layer["histogram"]]
    by_name = {layer["name"]: layer for layer in drawn}
    costly = [by_name[name] for name in summary["worst"][:_DRAWN] if name in by_name]
    large = sorted(drawn, key=lambda layer: -layer["macs"])
    shown = costly + [layer for layer in large if layer not in costly][:_DRAWN]
    return {
        "summary": summary,
        "layers": layers,
        "shown": shown,
        "others": [layer for layer in drawn if layer not in shown],
        "kinds": sorted({layer["histogram"]["unit"] for layer in drawn}),
        "most_macs": max((layer["macs_share"] for layer in layers), default=0) or 1,
        "draw": draw,
        "steps_words": steps_words,
    }


def draw(name: str, layer: Mapping[str, Any]) -> Markup:
    """The weights of one layer as bars, and below them the levels, as high as often they are taken.

    Text stands beside the drawing, not in it, so that it can be stretched.

    Args:
        name: of the layer.
        layer: with "levels", "steps" and "per" as in `techniques.describe_quantized`, and the
            "histogram" as in `techniques.histogram`, as plain values.
    """
    seen = layer["histogram"]
    low, high = seen["low"], seen["high"]

    def x(value: float) -> float:
        return (value - low) / (high - low) * _WIDTH

    rows = [_shown(row, even=seen["unit"] == "step") for row in seen["rows"]]
    parts = []
    if len(rows) == 1 and len(rows[0]) <= _LINES:
        through = "".join(f"M{x(v):.1f} 0V{_BARS}" for v, _ in rows[0])
        parts.append(Markup('<path class="through" d="{}"/>').format(through))
    parts.append(Markup('<path class="bars" d="{}"/>').format(_outline(seen["counts"])))
    for place, row in enumerate(rows):
        base = _BARS + _ROW * (place + 1) - 2
        most = max((count for _, count in row), default=0) or 1
        ticks = "".join(
            f"M{x(v):.1f} {base}v{-3 - (_ROW - 9) * math.sqrt(count / most):.1f}"
            for v, count in row
        )
        parts.append(Markup('<path class="base" d="M0 {0}H{1}"/>').format(base, _WIDTH))
        parts.append(Markup('<path class="level" d="{}"/>').format(ticks))
    height = _BARS + _ROW * len(rows)
    return Markup(
        '<div class="weights"><svg viewBox="0 0 {w} {h}" style="height: {h}px" '
        'preserveAspectRatio="none" role="img" aria-label="{said}">{parts}</svg>{axis}</div>'
    ).format(
        w=_WIDTH, h=height, said=in_words(name, layer), parts=Markup("").join(parts),
        axis=_axis(seen, rows),
    )  # fmt: skip


def in_words(name: str, layer: Mapping[str, Any]) -> str:
    """What the drawing shows, for those who cannot see it."""
    seen = layer["histogram"]
    counts, low, high = seen["counts"], seen["low"], seen["high"]
    step = (high - low) / len(counts)
    total, below = sum(counts) or 1, 0.0
    ends = []
    for share in (0.05, 0.95):
        below, place = 0.0, 0
        while place < len(counts) - 1 and below + counts[place] < share * total:
            below += counts[place]
            place += 1
        ends.append(low + step * (place + (0 if share < 0.5 else 1)))
    unit = " steps" if seen["unit"] == "step" else ""
    return (
        f"Histogram of the {'rounded ' if seen['rounded'] else ''}weights of {name}: from "
        f"{low:.3g} to {high:.3g}{unit}, nine of ten between {ends[0]:.3g} and {ends[1]:.3g}. "
        f"{steps_words(layer)}."
    )


def steps_words(layer: Mapping[str, Any]) -> str:
    """How many levels there are, and of what kind: "64 codebooks of 16 levels"."""
    steps, levels, per = layer["steps"], layer["levels"], layer["per"]
    if per is None:
        return ""
    if per == "codebook":
        return f"{steps} codebook{'s' if steps != 1 else ''} of {levels} levels"
    if per == "tensor":
        return f"one step for {levels} levels"
    return f"{steps} steps, one per {per}, for {levels} levels"


def _outline(counts: list[int]) -> str:
    """Bars as one shape. Heights are square roots, or rare large weights could not be seen."""
    most = max(counts) or 1
    width = _WIDTH / len(counts)
    path = [f"M0 {_BARS}"]
    for place, count in enumerate(counts):
        y = _BARS - (_BARS - 4) * math.sqrt(count / most)
        path.append(f"V{y:.1f}H{(place + 1) * width:.1f}")
    return "".join([*path, f"V{_BARS}Z"])


def _shown(row: list[list[float]], *, even: bool) -> list[tuple[float, int]]:
    """Of many even steps every sixteenth, with the ends; all levels of a codebook."""
    taken = [(float(v), int(count)) for v, count in row]
    if not even or len(taken) <= _FEW:
        return taken
    ends = (taken[0][0], taken[-1][0])
    # Heights would say little of so few out of many: they are all alike.
    return [(v, 1) for v, _ in taken if v % 16 == 0 or v in ends]


def _axis(seen: Mapping[str, Any], rows: list[list[tuple[float, int]]]) -> Markup:
    """The ends of the levels and zero, below where they stand."""
    low, high = seen["low"], seen["high"]
    places = {0.0} if low < 0 < high else set()
    if seen["unit"] == "step":
        places |= {rows[0][0][0], rows[0][-1][0]}
    else:
        places |= {low, high}
    said = Markup("")
    for value in sorted(places):
        part = 100 * (value - low) / (high - low)
        side = "start" if part < 8 else "end" if part > 92 else "middle"
        text = f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
        said += Markup('<span class="{}" style="left: {:.1f}%">{}</span>').format(side, part, text)
    return Markup('<div class="axis-ends">{}</div>').format(said)
