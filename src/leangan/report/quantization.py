"""The page of a quantization: how few bits each layer has, what that cost, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leangan.report import words
from leangan.report.html import from_template, pictured, write_page
from leangan.report.json_report import finite
from leangan.report.levels import section

_FEW = 3
"""Layers that are named."""
_HALF = 0.5
_CHEAP = 0.25
"""Layers with at most this share of the MACs are worth leaving in float for half of the error."""
_DB_PER_BIT = 6.0
_SPARE_DB = 8.0
"""So far above the floor, a bit less is likely to do: it costs about 6 dB."""


def render(facts: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """The whole page. Everything that comes from outside is escaped.

    Args:
        facts: what `leangan quantize --json` prints.
        extras: what is only for people, besides
            `summary` and `layers`: as `techniques.describe_quantized` has them, as plain values,
            histograms included;
            these may be left out:
            `samples`: a list of {"name", "input", "reference", "output", "difference" (pictures as
            data URIs), "psnr"};
            `steps`: {"name", "settings"}; `command`: text.
    """
    facts, extras = finite(dict(facts)), finite(dict(extras))
    layers, summary = extras["layers"], extras["summary"]
    entry = {"quality": facts["quality"], "speedup": None}
    return from_template(
        "quantization.html.j2",
        facts=facts,
        headline=headline(facts, summary),
        good=words.above_floor(entry, facts["floor"]) if facts["floor"] else None,
        metric=words.main_metric([entry], facts["floor"]),
        entry=entry,
        advice=advice(facts, layers),
        samples=[pictured(s) for s in extras.get("samples") or []],
        steps=extras.get("steps") or [],
        command=extras.get("command"),
        **section(summary, layers),
    )


def write_quantization(facts: Mapping[str, Any], extras: Mapping[str, Any], path: Path) -> Path:
    """Write `render`'s page atomically."""
    return write_page(render(facts, extras), path)


def headline(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """What was done, in one sentence."""
    name = words.short_name(facts["model"])
    before, after = (facts[k]["file_bytes"] for k in ("before", "after"))
    said = f"The weights of {name} take {summary['weight_bits']:.1f} bits each"
    if summary["integer_share"]:
        share = words.share(summary["integer_share"])
        said = f"{name} has {share} of its multiply-accumulates in 8-bit integers"
    said += f", in a file {words.times(before / max(1, after))} smaller"
    return said + words.at_quality(facts)


def advice(facts: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to do next, the most useful first; empty where nothing is to be said."""
    said = []
    entry = {"quality": facts["quality"], "speedup": None}
    metric = words.main_metric([entry], facts["floor"])
    mean = facts["quality"][metric]["mean"] if metric else None
    good = words.above_floor(entry, facts["floor"])
    if half := _half_of_the_error(layers):
        names, share, macs, gain = half
        said.append(
            f"{_listed(names)} {'make' if len(names) > 1 else 'makes'} {words.share(share)} of "
            f"the error at {macs:.1%} of the multiply-accumulates: left in float, "
            f"or given more bits, {'they' if len(names) > 1 else 'it'} would bring the output "
            f"about {gain:.1f} dB closer."
        )
    low = [w for w in layers if w["levels"] and w["levels"] < 255]
    wanted = next((c for c in words.conditions(facts["floor"]) if c.metric == metric), None)
    if (
        good
        and low
        and wanted
        and mean is not None
        and words.metric_words(wanted.metric)[1] == "dB"
    ):
        spare = mean - wanted.value
        if spare >= _SPARE_DB:
            said.append(
                f"There are {spare:.0f} dB to spare above the floor: one bit less, at about "
                f"{_DB_PER_BIT:.0f} dB, may do."
            )
    if not any(w["activation_bits"] == 8 for w in layers):
        said.append("For speed, quantize weights and inputs to 8 bits: integer kernels want both.")
    return said


def _half_of_the_error(
    layers: Sequence[Mapping[str, Any]],
) -> tuple[list[str], float, float, float] | None:
    """The few cheap layers that make half of the error: names, share of it, of the MACs, gain.

    Errors of layers have little to do with each other, so that their powers add up.
    """
    noise = {w["name"]: 10 ** (-w["output_db"] / 10) for w in layers if w["output_db"] is not None}
    macs = {w["name"]: w["macs_share"] for w in layers}
    whole = sum(noise.values())
    taken: list[str] = []
    share = 0.0
    for name in sorted(noise, key=lambda n: -noise[n]):
        if share >= _HALF or len(taken) == _FEW:
            break
        taken.append(name)
        share += noise[name] / whole
    spent = sum(macs[name] for name in taken)
    if not taken or not _HALF <= share < 1 or spent > _CHEAP:
        return None
    return taken, share, spent, -10 * math.log10(1 - share)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
