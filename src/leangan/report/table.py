"""The one comparison table that every command ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leangan.report import words

_LEAST = ("memory", "zip", "runtime", "precision", "int8 share")
"""What a narrow screen does without, in this order; names nearly always say runtime and form."""
_GAP = 2
_SHORTEST_NAME = 16
_SHOWN = ("mean", "worst")


def entries_table(
    entries: list[dict[str, Any]],
    delivered: str | None,
    floor: str | None,
    *,
    width: int | None = None,
) -> Table:
    """One line per entry of report.json, the original first.

    Args:
        entries: the original and what is compared with it.
        delivered: name of the delivered one, which is marked.
        floor: what was to be kept, `psnr>=40`; its first metric is the one shown.
        width: characters to fit into; the terminal's when None. Less important columns are left
            out until the rest fits.
    """
    width = width or Console().width
    metric = words.main_metric(entries, floor)
    columns = _columns(entries, metric, delivered, floor)
    cells = {name: [cell(e) for e in entries] for name, cell in columns.items()}
    shown = [name for name in columns if name == "version" or any(cells[name])]
    needed = {name: _needed(name, cells[name]) for name in shown}
    for name in _LEAST:
        if sum(needed[n] for n in shown) <= width:
            break
        if name in shown:
            shown.remove(name)
    over = sum(needed[n] for n in shown) - width
    name_width = max(needed["version"] - _GAP - max(over, 0), _SHORTEST_NAME)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style="dim",
        caption=_failures(entries),
        caption_justify="left",
        caption_style="",
    )
    for name in shown:
        is_text = name in ("version", "runtime", "precision", "remark")
        table.add_column(
            name,
            justify="left" if is_text else "right",
            no_wrap=name != "remark",
            width=name_width if name == "version" else None,
            overflow="fold" if name == "remark" else "ellipsis",
        )
    for row, entry in enumerate(entries):
        chosen = delivered is not None and entry["name"] == delivered
        remark = words.remark(entry, delivered, floor)
        style = "bold green" if chosen else "dim" if remark else ""
        table.add_row(*(Text(cells[name][row]) for name in shown), style=style)
    return table


def _failures(entries: list[dict[str, Any]]) -> Text | None:
    """Why something could not be measured, below the table, where there is room."""
    lines = [f"{e['name']} {words.remark(e, None, None)}" for e in entries if e["error"]]
    return Text("\n".join(lines)) if lines else None


def _columns(
    entries: list[dict[str, Any]], metric: str | None, delivered: str | None, floor: str | None
) -> dict[str, Callable[[dict[str, Any]], str]]:
    counts = {e["quality"][metric]["n"] for e in entries if metric in e["quality"]}
    # All were judged on the same samples, as a rule; then their number is said once.
    same = next(iter(counts)) if len(counts) == 1 else None
    name, unit = words.metric_words(metric) if metric else ("quality", "")
    quality = f"{name} {unit}".strip() + f"\n(worst){f' n {same}' if same else ' n'}"
    return {
        "version": lambda e: " ".join(e["name"].split()),
        "runtime": lambda e: words.runtime(e["runtime"]),
        "precision": lambda e: e["precision"],
        "ms p50\n/ p90": _latency,
        "speed-up": lambda e: words.times(e["speedup"]),
        "size": lambda e: words.size(e["size_bytes"]),
        "zip": lambda e: words.size(e["size_bytes_zip"]),
        "int8 share": lambda e: words.share(e["int8_share"]),
        "memory": lambda e: words.size(e["peak_memory_bytes"]),
        quality: lambda e: _quality(e, metric, say_n=same is None),
        "remark": lambda e: "failed" if e["error"] else words.remark(e, delivered, floor),
    }


def _latency(entry: dict[str, Any]) -> str:
    latency = entry["latency_ms"]
    if latency is None:
        return ""
    return f"{words.milliseconds(latency['p50'])} / {words.milliseconds(latency['p90'])}"


def _quality(entry: dict[str, Any], metric: str | None, *, say_n: bool) -> str:
    score = entry["quality"].get(metric) if metric else None
    if metric is None or score is None:
        return ""
    n = f" {score['n']}" if say_n else ""
    if score["mean"] is None:
        return f"identical{n}"
    mean, worst = (words.metric_value(metric, score[k]).removesuffix(" dB") for k in _SHOWN)
    return f"{mean} ({worst}){n}"


def _needed(name: str, cells: list[str]) -> int:
    """Characters of a column with the gap behind it; a remark wraps, and needs only a part."""
    longest = max(map(len, [*name.splitlines(), *cells]))
    if name == "remark":
        longest = min(longest, 17)
    return longest + _GAP
