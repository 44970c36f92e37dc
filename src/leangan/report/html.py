"""report.html: one file that needs nothing else, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from leangan.files import atomic
from leangan.report import plot, words
from leangan.report.json_report import finite
from leangan.report.levels import section

_FOLDER = Path(__file__).parent


def render(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """The whole page. Everything that comes from outside is escaped.

    Args:
        report: report.json's dictionary.
        extras: what is only for people; any of it may be left out:
            `samples`: a list of {"name", "input", "reference", "output", "difference" (pictures as
            data URIs, None where there is none), "psnr" (dB)};
            `layers`: {"name", "op", "macs", "params", "sensitivity_db", "precision", "why"};
            `quantization`: of quantized weights {"summary", "layers"}, see `levels.section`;
            `steps`: {"name", "settings", "measured"}, what was done, in order;
            `command`, `recipe`: text.
    """
    facts: dict[str, Any] = finite(dict(report))
    extras = finite(dict(extras))
    layers = extras.get("layers") or []
    entries = facts["candidates"]
    delivered = facts["delivered"]
    quantization = extras.get("quantization")
    return from_template(
        "report.html.j2",
        report=facts,
        headline=words.headline(facts),
        delivered=delivered,
        chosen=delivered or words.best_found(facts),
        original=facts["original"],
        rows=[facts["original"], *_by_speed(entries)],
        metric=words.main_metric(entries, facts["floor"]),
        plots=[
            ("wide", plot.trade_off(facts, width=940, height=460)),
            ("narrow", plot.trade_off(facts, width=380, height=430)),
        ],
        legend=plot.legend(facts),
        samples=[pictured(s) for s in extras.get("samples") or []],
        layers=layers,
        all_macs=sum(layer["macs"] or 0 for layer in layers) or 1,
        most_macs=max((layer["macs"] or 0 for layer in layers), default=1) or 1,
        quantization=section(**quantization) if quantization else None,
        steps=extras.get("steps") or [],
        command=extras.get("command"),
        recipe=extras.get("recipe"),
    )


def write_html(report: Mapping[str, Any], extras: Mapping[str, Any], path: Path | str) -> Path:
    """Write `render`'s page atomically."""
    return write_page(render(report, extras), Path(path))


def from_template(name: str, **values: Any) -> str:
    """A page of this room's template `name`; all values are escaped, and all must be there."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(words=words, **values)


def write_page(page: str, path: Path) -> Path:
    """Write a page atomically."""
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _by_speed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fastest first, the ones that failed last."""
    return sorted(entries, key=lambda e: (bool(e["error"]), -(e["speedup"] or 0)))


def pictured(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Its pictures with captions; only true picture data URIs pass, nothing that is fetched."""
    pictures = [
        (caption, Markup('<img src="{}" alt="{}" loading="lazy">').format(uri, caption))
        for key, caption in (
            ("input", "input"),
            ("reference", "original's output"),
            ("output", "delivered output"),
            ("difference", "difference, amplified"),
        )
        if str(uri := sample.get(key) or "").startswith("data:image/")
    ]
    return {"name": sample["name"], "psnr": sample.get("psnr"), "pictures": pictures}
