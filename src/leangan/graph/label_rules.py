"""Which rule labels pass each operator by."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from leangan.graph import label_axes, label_moves, label_sums
from leangan.graph.label_common import elementwise, unknown
from leangan.graph.labels import Fields
from leangan.graph.operators import aten, read_convolution
from leangan.graph.walk import Rule, Walk


def rule_of(run: Walk, node: Node) -> Rule:
    """The rule of an operator; one that fixes all labels where none is known."""
    if node.target is operator.getitem:
        return _getitem
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _RULES:
        return _RULES[packet]
    if read_convolution(node):
        return label_sums.convolution
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return elementwise
    return unknown


def _getitem(run: Walk, node: Node) -> Fields:
    source: Any = node.args[0]
    place: Any = node.args[1]
    found = run.fields.get(source, ())
    return found[place] if isinstance(found, list) else ()


def _same(run: Walk, node: Node) -> Fields:
    return run.of(node.args[0])


_PLAIN: dict[str, Rule] = {
    "clone contiguous alias detach _to_copy dropout to lift_fresh_copy": _same,
    "full_like zeros_like ones_like rand_like randn_like complex real imag copy": elementwise,
}
_RULES: dict[Any, Rule] = {
    getattr(aten, name): rule
    for rules in (_PLAIN, label_moves.RULES, label_axes.RULES, label_sums.RULES)
    for names, rule in rules.items()
    for name in names.split()
    if hasattr(aten, name)
}
"""By operator; names that this torch does not have are left out."""
