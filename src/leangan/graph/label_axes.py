"""How labels pass operators that work along some axes and leave the others alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from leangan.graph.label_common import axis_of, elementwise, with_vector
from leangan.graph.labels import Field, Fields
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.walk import Rule, Walk


def _spatial(run: Walk, node: Node) -> Fields:
    """Pooling, resizing, padding, transforms: what varies along their axes is mixed there."""
    found: list[Field] = []
    before, after = run.shape(node.args[0]), run.shape(node)
    acted = _acted(run, node)
    for made in run.of(node.args[0]):
        for left in run.labels.collapse(made, acted, f"is mixed over space by {node.name}"):
            small = left.labels
            for axis in range(len(before)):
                if axis in acted:
                    small = small.narrow(axis, 0, 1)
            found += run.labels.make(small.expand(after))
    return tuple(found)


def _acted(run: Walk, node: Node) -> list[int]:
    named = arguments(node)
    rank = len(run.shape(node.args[0]))
    if is_call(node, aten.pad, aten.constant_pad_nd):
        pads = run.value(named["pad"])
        return [rank - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]
    dims = named.get("dim", named.get("dims"))
    if dims is not None:
        return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    return list(range(2, rank)) if rank > 2 else [rank - 1]


def _pad(run: Walk, node: Node) -> Fields:
    mode = arguments(node).get("mode", "constant")
    acted = _acted(run, node)
    if mode != "constant" or not any(set(acted) & set(f.axes) for f in run.of(node.args[0])):
        return _spatial(run, node)
    pads = run.value(arguments(node)["pad"])
    made = [torch.nn.functional.pad(f.labels, pads) for f in run.of(node.args[0])]
    return tuple(x for m in made for x in run.labels.make(m))


def _softmax(run: Walk, node: Node) -> Fields:
    """What is weighed against each other cannot be cut."""
    axis = axis_of(run, node.args[0], node.args[1])
    found: list[Field] = []
    for made in run.of(node.args[0]):
        found += run.labels.collapse(made, [axis], f"is weighed against others in {node.name}")
    return tuple(found)


def _reduce(run: Walk, node: Node) -> Any:
    """Sums, means and alike over labelled axes are taken over what is left."""
    named = arguments(node)
    rank = len(run.shape(node.args[0]))
    dims = named.get("dim")
    dims = list(range(rank)) if dims is None or dims == [] else dims
    acted = [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    keep = bool(named.get("keepdim", False))
    found: list[Field] = []
    for made in run.of(node.args[0]):
        if set(made.axes) <= set(acted):
            continue
        for left in run.labels.collapse(made, acted, "is reduced"):
            small = left.labels
            for axis in sorted(acted, reverse=True):
                small = small.narrow(axis, 0, 1) if keep else small.select(axis, 0)
            found += run.labels.make(small)
    value = run.values[node]
    return [tuple(found)] * len(value) if isinstance(value, tuple | list) else tuple(found)


def _max(run: Walk, node: Node) -> Any:
    return elementwise(run, node) if node.target is aten.max.other else _reduce(run, node)


def _glu(run: Walk, node: Node) -> Fields:
    axis = axis_of(run, node.args[0], arguments(node)["dim"])
    shape = run.shape(node)
    halves: list[Fields] = []
    for start in (0, shape[axis]):
        halves.append(
            tuple(
                x
                for f in run.of(node.args[0])
                for x in run.labels.make(f.labels.narrow(axis, start, shape[axis]))
            )
        )
    reason = f"meets values that cannot be cut, in {node.name}"
    return run.labels.meet((halves[0], shape), (halves[1], shape), reason)


def _prelu(run: Walk, node: Node) -> Fields:
    slopes = node.args[1]
    if run.shape(slopes) == (1,) or len(run.shape(slopes)) > 1:
        return elementwise(run, node)
    return with_vector(run, node, run.of(node.args[0]), run.shape(node), slopes, 1)


def _norm(run: Walk, node: Node) -> Any:
    """Batch and instance norm: each channel (axis 1) has its numbers."""
    named = arguments(node)
    shape = run.shape(node.args[0])
    fields = _of_channels(run, node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        fields = with_vector(run, node, fields, shape, named.get(name), 1)
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _of_channels(run: Walk, node: Node) -> Fields:
    """The fields of a norm's input; what varies over space is mixed there."""
    space = range(2, len(run.shape(node.args[0])))
    return tuple(
        left
        for made in run.of(node.args[0])
        for left in run.labels.collapse(made, space, f"is mixed over space by {node.name}")
    )


def _layer_norm(run: Walk, node: Node) -> Any:
    named = arguments(node)
    inputs = [named["input"], *(named[k] for k in ("weight", "bias") if named.get(k) is not None)]
    fields = run.meet(node, inputs)
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _group_norm(run: Walk, node: Node) -> Any:
    named = arguments(node)
    groups = run.value(named.get("num_groups", named.get("group")))
    shape = run.shape(node.args[0])
    fields = _of_channels(run, node)
    for name in ("weight", "bias"):
        fields = with_vector(run, node, fields, shape, named.get(name), 1)
    if shape[1] > groups:
        fields = tuple(x for f in fields for x in _alike(run, f, shape, groups))
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _alike(run: Walk, made: Field, shape: Sequence[int], groups: int) -> Fields:
    """All groups of axis 1 shrink alike: the i-th channels of all of them are one."""
    if 1 not in made.axes:
        return (made,)
    split = made.labels.reshape(shape[0], groups, -1, *shape[2:])
    run.labels.merge(split, split[:, :1].expand(split.shape))
    return (made,)


RULES: dict[str, Rule] = {
    "prelu _prelu_kernel": _prelu,
    "pad constant_pad_nd": _pad,
    (
        "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d avg_pool1d "
        "avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_max_pool2d _adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d "
        "_upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
        "upsample_linear1d grid_sampler grid_sampler_2d roll _fft_r2c _fft_c2r _fft_c2c fft_rfft "
        "fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_fft fft_ifft fft_fft2 fft_ifft2 "
        "fft_fftn fft_ifftn"
    ): _spatial,
    "softmax _softmax log_softmax _log_softmax cumsum sort": _softmax,
    "mean sum amax amin var std linalg_vector_norm norm var_mean logsumexp": _reduce,
    "max": _max,
    "glu": _glu,
    (
        "batch_norm native_batch_norm _native_batch_norm_legit_no_training "
        "_native_batch_norm_legit instance_norm"
    ): _norm,
    "layer_norm native_layer_norm rms_norm _fused_rms_norm": _layer_norm,
    "group_norm native_group_norm": _group_norm,
}
"""By the names of ATen operators."""
