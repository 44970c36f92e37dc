"""The trade-off plot as inline SVG: speed-up against quality, one mark per entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from leangan.report import words

_STRIP = 46
"""Height of the band on top that holds everything exact to rounding."""
_LETTER = 7.1
"""Width of a letter in the widest of the common system fonts, in pixels."""
_LINE = 15


@dataclass(frozen=True)
class Box:
    """A rectangle that text or a mark takes up."""

    x: float
    y: float
    w: float
    h: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles overlap."""
        return (
            self.x < other.x + other.w
            and other.x < self.x + self.w
            and self.y < other.y + other.h
            and other.y < self.y + self.h
        )


@dataclass(frozen=True)
class _Mark:
    x: float
    y: float
    label: str
    title: str
    css: str
    shape: str


class _Axes:
    """Where a speed-up and a quality lie on the page."""

    def __init__(
        self, width: int, height: int, speeds: list[float], values: list[float], top: float
    ) -> None:
        self.left, self.right, self.upper, self.lower = 52, width - 16, 14, height - 44
        self.low_x, self.high_x = min(speeds) / 1.25, max(speeds) * 1.5
        # Marks must not sit on the frame.
        pad = max((top - min(values)) * 0.14, top * 0.02)
        self.low_y, self.high_y = min(values) - pad, top

    def x(self, speed: float) -> float:
        """Logarithmic."""
        part = math.log(speed / self.low_x) / math.log(self.high_x / self.low_x)
        return self.left + part * (self.right - self.left)

    def y(self, value: float | None) -> float:
        """Linear up to the band of the exact ones."""
        if value is None or value > self.high_y:
            return self.upper + _STRIP / 2
        top = self.upper + _STRIP
        return self.lower - (value - self.low_y) / (self.high_y - self.low_y) * (self.lower - top)


def trade_off(report: dict[str, Any], *, width: int, height: int) -> Markup:
    """Draw original and candidates.

    Args:
        report: report.json's dictionary.
        width: of the drawing in CSS pixels; text does not shrink with it.
        height: likewise.

    Returns:
        One `<svg>` element that takes its colours from the page; empty when there is nothing that
        has both a speed and a quality.
    """
    delivered = report["delivered"]["name"] if report["delivered"] else None
    candidates = [e for e in report["candidates"] if e["speedup"] and not e["error"]]
    metric = words.main_metric(candidates, report["floor"])
    if metric is None:
        return Markup("")
    shown = [e for e in candidates if metric in e["quality"]]
    means = {id(e): e["quality"][metric]["mean"] for e in shown}
    decibel = words.metric_words(metric)[1] == "dB"
    floor = next((c for c in words.conditions(report["floor"]) if c.metric == metric), None)
    limits = [floor.value] if floor else []
    finite = [v for v in means.values() if v is not None and (not decibel or v < words.EXACT_DB)]
    top = max([*finite, *limits], default=words.EXACT_DB if decibel else 1.0)
    top = _ceiling(top, 10 if decibel else 0.1)
    axes = _Axes(
        width,
        height,
        [1.0, *(e["speedup"] for e in shown)],
        [*finite, *limits] or [top / 2],
        top,
    )
    marks = [
        _Mark(
            axes.x(e["speedup"]),
            axes.y(means[id(e)]),
            e["name"],
            _title(e, metric, delivered, report["floor"]),
            _css(e, delivered, report["floor"]),
            e["runtime"],
        )
        for e in sorted(shown, key=lambda e: e["name"] != delivered)
    ]
    original = report["original"]
    # Measured against its own output the original has no error; against the truth it has.
    score = original["quality"].get(metric)
    own = score["mean"] if score else None
    marks.insert(
        1 if delivered else 0,
        _Mark(
            axes.x(1), axes.y(own), "original", _title(original, metric, None, None), "origin", "*"
        ),
    )
    busy = [Box(axes.right - 110, axes.upper, 110, 18)]  # the words in the band, and at the floor
    if floor is not None:
        line = axes.y(floor.value)
        busy += [Box(axes.right - 110, line, 110, 20), Box(axes.left, line, axes.right, 1)]
    labels = _labels(marks, axes, busy)
    parts = [*_frame(axes, metric, floor, decibel), *labels, *map(_draw, marks)]
    name, _ = words.metric_words(metric)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, f"Speed-up against {name} of every version", Markup("").join(parts)
    )


def _ceiling(value: float, step: float) -> float:
    return math.ceil(value / step + 1e-9) * step


def _css(entry: dict[str, Any], delivered: str | None, floor: str | None) -> str:
    classes = ["int8" if "int8" in entry["precision"] else "float"]
    if not words.above_floor(entry, floor):
        classes.append("below")
    if entry["slower_than_float"]:
        classes.append("slow")
    if entry["name"] == delivered:
        classes.append("delivered")
    return " ".join(classes)


def _title(entry: dict[str, Any], metric: str, delivered: str | None, floor: str | None) -> str:
    latency = entry["latency_ms"]
    facts = [
        entry["name"],
        f"{words.runtime(entry['runtime'])} {entry['precision']}",
        f"{words.milliseconds(latency['p50'])} ms, {words.times(entry['speedup'])}"
        if latency and entry["speedup"]
        else "",
        words.quality_words(entry, metric),
        words.size(entry["size_bytes"]),
        words.remark(entry, delivered, floor),
    ]
    return "\n".join(fact for fact in facts if fact)


def _frame(axes: _Axes, metric: str, floor: words.Condition | None, decibel: bool) -> list[Markup]:
    """Grid, ticks, axis names, the band of exact ones and the floor."""
    strip = axes.upper + _STRIP
    box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    span = axes.right - axes.left
    parts = [box.format("band", axes.left, axes.upper, span, _STRIP)]
    exact = f"exact, over {axes.high_y:.0f} dB" if decibel else "identical"
    parts.append(text.format("tick", axes.right - 8, axes.upper + 14, "end", exact))
    for value in _linear_ticks(axes.low_y, axes.high_y):
        y = axes.y(value)
        parts.append(line.format("grid", axes.left, y, axes.right, y))
        parts.append(text.format("tick", axes.left - 8, y + 4, "end", f"{value:g}"))
    for speed in _log_ticks(axes.low_x, axes.high_x, span):
        x = axes.x(speed)
        parts.append(line.format("grid", x, axes.upper, x, axes.lower))
        parts.append(text.format("tick", x, axes.lower + 17, "middle", f"{speed:g}×"))
    parts.append(line.format("one", axes.x(1), axes.upper, axes.x(1), axes.lower))
    if floor is not None:
        y = axes.y(floor.value)
        lower = axes.lower if floor.at_least else strip
        parts.append(box.format("under", axes.left, min(y, lower), span, abs(lower - y)))
        parts.append(line.format("floor", axes.left, y, axes.right, y))
        words_ = f"floor {words.metric_value(metric, floor.value)}"
        parts.append(text.format("floor-name", axes.right - 8, y + 15, "end", words_))
    name, unit = words.metric_words(metric)
    parts.append(
        text.format("axis", axes.right, axes.lower + 36, "end", "speed-up over the original →")
    )
    upright = f"{name} in {unit}" if unit else name
    middle = (strip + axes.lower) / 2
    parts.append(
        Markup(
            '<text class="axis" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">'
            "{}</text>"
        ).format(middle, f"{upright} →" if floor is None or floor.at_least else f"← {upright}")
    )
    return parts


def _linear_ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(step * f for f in (0.2, 0.5, 1.0, 2.0) if (high - low) / (step * f) <= 6)
    first = math.ceil(low / step)
    return [round(i * step, 9) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, span: float) -> list[float]:
    every = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
    inside = [v for v in every if low <= v <= high]
    if len(inside) * 42 > span:
        inside = [v for v in inside if f"{v:g}".lstrip("0.").startswith("1")]
    return inside


def _labels(marks: list[_Mark], axes: _Axes, busy: list[Box]) -> list[Markup]:
    """Names beside the marks, moved and led by a line where there is no room."""
    taken = [*busy, *(Box(m.x - 8, m.y - 8, 16, 16) for m in marks)]
    parts = []
    for mark in marks:
        name = mark.label if len(mark.label) <= 30 else mark.label[:29] + "…"
        width = len(name) * _LETTER * (1.08 if "delivered" in mark.css else 1)  # bold
        box = _place(mark, width, taken, axes)
        if box is None:
            continue  # its title and the table still name it
        taken.append(box)
        css = "label delivered" if "delivered" in mark.css else "label"
        near = min(max(mark.x, box.x), box.x + width), min(max(mark.y, box.y), box.y + box.h)
        if math.dist(near, (mark.x, mark.y)) > 16:
            parts.append(
                Markup(
                    '<line class="lead" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
                ).format(mark.x, mark.y, *near)
            )
        parts.append(
            Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                css, box.x, box.y + 11.5, name
            )
        )
    return parts


def _place(mark: _Mark, width: float, taken: list[Box], axes: _Axes) -> Box | None:
    """The nearest free rectangle for a label around its mark."""
    for gap in (11.0, 18.0, 30.0, 44.0, 60.0, 78.0, 100.0):
        for x, y in (
            (mark.x + gap, mark.y - _LINE / 2),
            (mark.x - gap - width, mark.y - _LINE / 2),
            (mark.x - width / 2, mark.y - gap - _LINE),
            (mark.x - width / 2, mark.y + gap),
            (mark.x + gap * 0.7, mark.y + gap * 0.7),
            (mark.x + gap * 0.7, mark.y - gap * 0.7 - _LINE),
            (mark.x - gap * 0.7 - width, mark.y + gap * 0.7),
            (mark.x - gap * 0.7 - width, mark.y - gap * 0.7 - _LINE),
        ):
            box = Box(x, y, width, _LINE)
            inside = (
                axes.left <= x
                and x + width <= axes.right
                and axes.upper <= y
                and y + _LINE <= axes.lower
            )
            if inside and not any(box.meets(other) for other in taken):
                return box
    return None


_SHAPES = {
    "*": "M0 -8 L8 0 L0 8 L-8 0 Z",
    "openvino": "M-6 0 A6 6 0 1 0 6 0 A6 6 0 1 0 -6 0 Z",
    "onnxruntime": "M-5.3 -5.3 H5.3 V5.3 H-5.3 Z",
    "torch": "M0 -7 L6.6 5 H-6.6 Z",
    "torch-inductor": "M0 7 L6.6 -5 H-6.6 Z",
}
_OTHER_SHAPE = "M-3.2 -6 H3.2 L6.4 0 L3.2 6 H-3.2 L-6.4 0 Z"


def _draw(mark: _Mark) -> Markup:
    halo = Markup('<circle class="halo" r="12"/>') if "delivered" in mark.css else Markup("")
    cross = (
        Markup('<path class="cross" d="M-10 10 L10 -10"/>') if "slow" in mark.css else Markup("")
    )
    return Markup(
        '<g class="mark {}" transform="translate({:.1f} {:.1f})"><title>{}</title>{}'
        '<path d="{}"/>{}</g>'
    ).format(
        mark.css, mark.x, mark.y, mark.title, halo, _SHAPES.get(mark.shape, _OTHER_SHAPE), cross
    )


def legend(report: dict[str, Any]) -> Markup:
    """Only what the plot really shows, as small drawings with words."""
    entries = [e for e in report["candidates"] if e["speedup"] and not e["error"]]
    items = [("origin", "*", "original")]
    items += [
        ("neutral", name, words.runtime(name))
        for name in dict.fromkeys(e["runtime"] for e in entries)
    ]
    if report["delivered"]:
        items.append(("delivered", report["delivered"]["runtime"], "delivered"))
    if any("int8" in e["precision"] for e in entries):
        items += [("float", "openvino", "float"), ("int8", "openvino", "int8")]
    if any(not words.above_floor(e, report["floor"]) for e in entries):
        items.append(("below", "openvino", "below the floor"))
    if any(e["slower_than_float"] for e in entries):
        items.append(("slow", "openvino", "slower than float"))
    drawings = [
        Markup('<li><svg viewBox="-13 -13 26 26" width="22" height="22">{}</svg>{}</li>').format(
            _draw(_Mark(0, 0, "", text, css, shape)), escape(text)
        )
        for css, shape, text in items
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(drawings))
