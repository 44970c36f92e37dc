"""What `inspect` tells of the channels that could be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from leangan.generator import Generator

_TOP = 8
_FIXED_COLUMNS = 34
"""Characters that width, weights and share of the MACs take."""
_CONTROL = "random"
"""Tells nothing of a group."""


def describe_channels(
    generator: Generator, samples: Sequence[tuple[Tensor, ...]]
) -> dict[str, Any]:
    """Groups of channels, what is fixed, and the share of zeros, as JSON values.

    Args:
        generator: any; of a quantized one no channel can be removed.
        samples: real inputs for the criteria that look at feature maps; may be empty.
    """
    from leangan.errors import LeanganError
    from leangan.graph.channels import couple
    from leangan.search.prune import fixed, zero_share
    from leangan.techniques.importance import describe_groups

    found: dict[str, Any] = {"groups": [], "fixed": [], "zeros": zero_share(generator)}
    if generator.quantized:
        return found | {"refused": "It is quantized: channels are removed before that."}
    try:
        coupling = couple(generator)
        groups = describe_groups(generator, samples, coupling=coupling)
    except LeanganError as error:
        return found | {"refused": str(error)}
    for group in groups:
        group["dispensable"].pop(_CONTROL, None)
    return found | {"groups": groups, "fixed": fixed(generator, coupling), "refused": None}


def channel_lines(facts: dict[str, Any], *, every: bool, width: int) -> list[Any]:
    """For people.

    Args:
        facts: what `describe_channels` returned.
        every: all groups in running order, not only the most expensive.
        width: characters to fit into.
    """
    lines: list[Any] = []
    if facts["zeros"] >= 0.005:
        lines.append(
            f"zeros   {facts['zeros']:.1%} of the weights; they save bytes in the file, no time"
        )
    if facts["refused"]:
        return [*lines, f"fixed   no channel can be pruned: {facts['refused']}"]
    lines += [f"fixed   {fixed_words(stuck)}" for stuck in facts["fixed"]]
    if not facts["groups"]:
        return [*lines, "fixed   no channel can be pruned"]
    return [*lines, _table(facts["groups"], every, width)]


def fixed_words(stuck: dict[str, Any]) -> str:
    """What cannot be pruned for one reason, an entry of `search.prune.fixed`."""
    paths = ", ".join(stuck["paths"][:3]) + (", ..." if len(stuck["paths"]) > 3 else "")
    return f"{stuck['share']:.1%} of the weights: {paths} {stuck['reason']}"


def _table(groups: list[dict[str, Any]], every: bool, width: int) -> Table:
    from rich import box
    from rich.table import Table

    from leangan.report.words import count, share

    shown = groups if every else sorted(groups, key=lambda g: -g["macs_share"])[:_TOP]
    hidden = "" if len(shown) == len(groups) else f"{len(groups)} groups; all with --channels. "
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style="dim",
        caption=f"{hidden}Per criterion: the share of the channels that hardly count "
        "(together under 1% of the group's score).",
        caption_justify="left",
    )
    table.add_column("group of channels")
    for name in ("width", "weights", "MACs"):
        table.add_column(name, justify="right")
    room = width - _FIXED_COLUMNS - max(len(g["name"]) for g in shown)
    criteria = []
    for name in shown[0]["dispensable"]:
        room -= max(map(len, name.split("-"))) + 2
        if room < 0:
            break
        criteria.append(name)
        table.add_column(name.replace("-", "\n"), justify="right")
    for group in shown:
        table.add_row(
            group["name"],
            str(group["width"]),
            count(group["params"]),
            share(group["macs_share"]),
            *(share(group["dispensable"][name]) for name in criteria),
        )
    return table
