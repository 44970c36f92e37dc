"""The page of a pruning: what went, what it did, and the feature maps that show why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from leangan.report import words
from leangan.report.html import from_template, pictured, write_page
from leangan.report.json_report import finite


def render(facts: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """The whole page. Everything that comes from outside is escaped.

    Args:
        facts: what `leangan prune --json` prints.
        extras: what is only for people; any of it may be left out:
            `maps`: of groups, see search/prune_maps.py;
            `samples`: a list of {"name", "input", "reference", "output", "difference" (pictures as
            data URIs), "psnr"};
            `steps`: {"name", "settings"}; `command`: text.
    """
    facts, extras = finite(dict(facts)), finite(dict(extras))
    entry = {"quality": facts["quality"], "speedup": None}
    return from_template(
        "pruning.html.j2",
        facts=facts,
        headline=headline(facts),
        good=words.above_floor(entry, facts["floor"]) if facts["floor"] else None,
        metric=words.main_metric([entry], facts["floor"]),
        entry=entry,
        draw=_drawing,
        maps=extras.get("maps") or [],
        samples=[pictured(s) for s in extras.get("samples") or []],
        steps=extras.get("steps") or [],
        command=extras.get("command"),
    )


def write_pruning(facts: Mapping[str, Any], extras: Mapping[str, Any], path: Path | str) -> Path:
    """Write `render`'s page atomically."""
    return write_page(render(facts, extras), Path(path))


def headline(facts: Mapping[str, Any]) -> str:
    """What was done, in one sentence."""
    before, after = facts["before"], facts["after"]
    name = words.short_name(facts["model"])
    if facts["plan"].get("weights") is not None:
        said = f"{words.share(after['zeros'])} of the weights of {name} are zero"
    else:
        macs, params = (after[k] / max(1, before[k]) for k in ("macs", "params"))
        said = (
            f"{name} has {words.share(macs)} of its multiply-accumulates and "
            f"{words.share(params)} of its parameters left"
        )
    return said + words.at_quality(facts)


def _drawing(
    made: Mapping[str, Any], caption: str, over: Mapping[str, Any] | None = None
) -> Markup:
    """A map as a picture, or as a line; `over` is another line in the same frame."""
    if str(uri := made.get("png") or "").startswith("data:image/"):
        return Markup('<img src="{}" alt="{}" loading="lazy">').format(uri, caption)
    lines = [("line", made), *([("line by", over)] if over else [])]
    drawn = [
        Markup('<polyline class="{}" points="{}"/>').format(css, _points(m["line"]))
        for css, m in lines
        if m.get("line")
    ]
    return Markup('<svg viewBox="0 0 100 46" role="img" aria-label="{}">{}</svg>').format(
        caption, Markup("").join(drawn)
    )


def _points(values: list[float]) -> str:
    step = 100 / max(1, len(values) - 1)
    return " ".join(f"{i * step:.1f},{43 - 40 * float(v):.1f}" for i, v in enumerate(values))
