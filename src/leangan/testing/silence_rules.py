"""How the mask of removed elements passes each kind of operator.

A rule is `rule(target, args, kwargs, masks, masks_kwargs) -> (value, mask)`: it runs the operator
on values whose removed elements are 0 and says which elements of the result are removed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.operators import aten

Rule = Callable[..., tuple[Any, Any]]


class Wrong(AssertionError):
    """The removed slices do not fit together, or a pruned network is not the silenced one."""


def rule_of(node: Node) -> Rule:
    """The rule of an operator."""
    if node.target is operator.getitem:
        return _getitem
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _RULES:
        return _RULES[packet]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return _elementwise
    return _unknown


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _nothing(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros(value.shape, dtype=torch.bool)
    return [_nothing(v) for v in value] if isinstance(value, tuple | list) else None


def _unknown(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """Nothing removed may come here, since nobody has said what becomes of it."""
    if any(bool(m.any()) for m in _tensors([masks, named])):
        raise Wrong(f"removed elements reach {target}, for which the reference has no rule.")
    value = target(*args, **kwargs)
    return value, _nothing(value)


def _getitem(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    return args[0][args[1]], masks[0][args[1]]


def _elementwise(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    value = target(*args, **kwargs)
    mask = _nothing(value)
    for one in _tensors([masks, named]):
        mask = mask | one
    return value, mask


def _move(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """The same operator on the mask of its first argument: a tensor or a list of them."""
    value = target(*args, **kwargs)
    moved = target(_float(masks[0]), *args[1:], **kwargs)
    return value, _bool(moved)


def _float(mask: Any) -> Any:
    return mask.float() if isinstance(mask, Tensor) else [_float(m) for m in mask]


def _bool(mask: Any) -> Any:
    return mask > 0 if isinstance(mask, Tensor) else [_bool(m) for m in mask]


def _pad(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """The border of a removed channel is removed; zeros added as channels are there to stay."""
    value = target(*args, **kwargs)
    mask = masks[0]
    for place, (before, after) in enumerate(zip(args[1][::2], args[1][1::2], strict=True)):
        axis = mask.dim() - 1 - place
        first = mask.narrow(axis, 0, 1)
        if bool((mask == first).all()):
            mask = first.expand(*_with(mask.shape, axis, mask.shape[axis] + before + after))
        else:
            mask = torch.nn.functional.pad(mask, [0, 0] * place + [before, after])
    return value, mask


def _with(shape: Sequence[int], axis: int, size: int) -> list[int]:
    return [size if a == axis else s for a, s in enumerate(shape)]


def _maps(spatial: int | None) -> Rule:
    """Operators within each feature map, on as many last axes; all but two when None."""

    def rule(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
        value = target(*args, **kwargs)
        found = value if isinstance(value, Tensor) else value[0]
        lead = 2 if spatial is None else masks[0].dim() - spatial
        flat = masks[0].flatten(lead)
        mask = flat.any(-1)
        if not torch.equal(mask, flat.all(-1)):
            raise Wrong("a feature map is removed in part.")
        mask = mask.reshape(*mask.shape, *[1] * (found.dim() - lead)).expand(found.shape)
        return value, mask if isinstance(value, Tensor) else [mask for _ in value]

    return rule


def _fourier(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """A transform over some axes, on which a channel must not depend."""
    value = target(*args, **kwargs)
    mask = masks[0]
    for axis in _argument(target, args, kwargs, "dim"):
        first = mask.narrow(axis, 0, 1)
        if not bool((mask == first).all()):
            raise Wrong("channels are removed along an axis that is transformed.")
        mask = first
    return value, mask.expand(value.shape)


def _view_as_real(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    value = target(*args, **kwargs)
    return value, masks[0].unsqueeze(-1).expand(value.shape)


# Sums of products


def _agree(leak: Tensor, removed: Tensor) -> None:
    if bool((leak.masked_fill(removed, 0) != 0).any()):
        raise Wrong("removed features meet weights that are left, or the other way round.")


def _convolution(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    value = target(*args, **kwargs)
    x, weight, *_ = masks
    transposed = "transpose" in str(target)
    place = 6 if transposed else next(
        i for i, a in enumerate(target._schema.arguments) if a.name == "groups"
    )  # fmt: skip
    groups = args[place] if len(args) > place else kwargs.get("groups", 1)
    if transposed:
        grouped = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    else:
        grouped = weight
    gone = grouped.flatten(1).all(1)
    mask = gone.reshape(-1, *[1] * (value.dim() - 2)).expand(value.shape)
    rest = args[3:]
    pairs = ((x, ~weight), (~x, weight))
    for a, b in pairs if bool(x.any() or weight.any()) else ():
        _agree(target(a.float(), b.float(), None, *rest, **kwargs), mask)
    if len(masks) > 2 and isinstance(masks[2], Tensor) and bool((masks[2] & ~gone).any()):
        raise Wrong("a bias is removed whose channel is left.")
    return value, mask


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Which elements of a matrix product are removed: those of which no term is left."""
    left = torch.matmul((~a).float(), (~b).float())
    removed = left == 0
    _agree(torch.matmul(a.float(), (~b).float()), removed)
    _agree(torch.matmul((~a).float(), b.float()), removed)
    return removed


def _matmul(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    return target(*args, **kwargs), _product(masks[0], masks[1])


def _addmm(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    return target(*args, **kwargs), _product(masks[1], masks[2])


def _linear(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    return target(*args, **kwargs), _product(masks[0], masks[1].t())


def _attention(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """softmax(q k^T / sqrt(d) + bias) v with the original d."""
    query, key, value = args[:3]
    bias = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if (args[5] if len(args) > 5 else kwargs.get("is_causal")) or kwargs.get("enable_gqa"):
        raise Wrong("causal attention is not in the reference.")
    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias
    removed = _product(masks[0], masks[1].transpose(-2, -1))
    weights = _softmax_of(scores, removed, -1)
    return weights @ value, _product(removed, masks[2])


# Over channels


def _axes(value: Any, rank: int) -> list[int]:
    if value is None or value == []:
        return list(range(rank))
    return [a % rank for a in ([value] if isinstance(value, int) else value)]


def _argument(target: Any, args: Any, kwargs: Any, name: str) -> Any:
    for place, argument in enumerate(target._schema.arguments):
        if argument.name == name:
            if place < len(args):
                return args[place]
            return kwargs.get(name, argument.default_value)
    return None


def _moments(x: Tensor, mask: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, sum of squared differences to it and count over what is left; axes kept as 1."""
    count = (~mask).sum(axes, keepdim=True)
    mean = x.masked_fill(mask, 0).sum(axes, keepdim=True) / count.clamp(min=1)
    square = ((x - mean) ** 2).masked_fill(mask, 0).sum(axes, keepdim=True)
    return mean, square, count


def _reduce(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """Mean, variance, sum, maximum, ... over the elements that are left."""
    x, mask = args[0], masks[0]
    axes = _axes(_argument(target, args, kwargs, "dim"), x.dim())
    keep = bool(_argument(target, args, kwargs, "keepdim"))
    gone = mask.all(dim=tuple(axes), keepdim=True) if x.dim() else mask
    mean, square, count = _moments(x, mask, axes)
    packet = target.overloadpacket
    if packet is aten.mean:
        results = [mean]
    elif packet in (aten.var, aten.std, aten.var_mean):
        correction = _argument(target, args, kwargs, "correction")
        if correction is None:
            correction = 0 if _argument(target, args, kwargs, "unbiased") is False else 1
        variance = square / (count - correction).clamp(min=0)
        variance = variance.masked_fill(gone, 0)
        results = {
            aten.var: [variance],
            aten.std: [variance.sqrt()],
            aten.var_mean: [variance, mean],
        }[packet]
    elif packet in (aten.amax, aten.amin):
        worst = -math.inf if packet is aten.amax else math.inf
        filled = x.masked_fill(mask, worst)
        results = [filled.amax(axes, True) if packet is aten.amax else filled.amin(axes, True)]
    elif packet is aten.sum:
        results = [x.sum(axes, keepdim=True)]
    else:
        order = _argument(target, args, kwargs, "ord")
        if order <= 0:
            raise Wrong(f"a norm of order {order} is not in the reference.")
        results = [torch.linalg.vector_norm(x, order, axes, True)]
    if not keep:
        shape = [s for a, s in enumerate(x.shape) if a not in axes]
        results, gone = [r.reshape(shape) for r in results], gone.reshape(shape)
    if len(results) == 1:
        return results[0], gone
    return results, [gone for _ in results]


def _best(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """max.dim and min.dim: values, and indices that nobody may read once something is removed."""
    if target in (aten.max.other, aten.min.other):
        return _elementwise(target, args, kwargs, masks, named)
    worst = -math.inf if target.overloadpacket is aten.max else math.inf
    value = target(args[0].masked_fill(masks[0], worst), *args[1:], **kwargs)
    axis = int(args[1])
    keep = bool(_argument(target, args, kwargs, "keepdim"))
    gone = masks[0].all(dim=axis, keepdim=keep)
    return list(value), [gone, gone]


def _softmax(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    return _softmax_of(args[0], masks[0], args[1]), masks[0]


def _softmax_of(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    return x.masked_fill(mask, -math.inf).softmax(axis).masked_fill(mask, 0)


def _layer_norm(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    x, mask = args[0], masks[0]
    axes = list(range(x.dim() - len(args[1]), x.dim()))
    weight, bias = (_argument(target, args, kwargs, n) for n in ("weight", "bias"))
    eps = _argument(target, args, kwargs, "eps")
    mean, square, count = _moments(x, mask, axes)
    y = (x - mean) / (square / count.clamp(min=1) + eps).sqrt()
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    for one in _tensors([masks[2:], named]):
        mask = mask | one
    return y, mask


def _group_norm(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    x, mask, groups = args[0], masks[0], args[1]
    weight, bias = (_argument(target, args, kwargs, n) for n in ("weight", "bias"))
    eps = _argument(target, args, kwargs, "eps")
    mean, square, count = _moments(x.unflatten(1, (groups, -1)).flatten(2),
                                   mask.unflatten(1, (groups, -1)).flatten(2), [2])  # fmt: skip
    y = (x.unflatten(1, (groups, -1)).flatten(2) - mean) / (
        square / count.clamp(min=1) + eps
    ).sqrt()
    y = y.reshape(x.shape)
    vector = (-1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.reshape(vector)
    y = y if bias is None else y + bias.reshape(vector)
    for one in _tensors([masks[2:], named]):
        mask = mask | one.reshape(vector)
    return y, mask


def _per_channel(target: Any, args: Any, kwargs: Any, masks: Any, named: Any) -> tuple[Any, Any]:
    """Norms with statistics of each channel alone, and slopes: vectors lie along axis 1."""
    value = target(*args, **kwargs)
    mask = masks[0]
    for one in _tensors([masks[1:], named]):
        if one.numel() > 1:
            mask = mask | one.reshape(-1, *[1] * (mask.dim() - 2))
    if isinstance(value, Tensor):
        return value, mask
    return value, [mask, *(_nothing(v) for v in value[1:])]


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t,
            aten.expand, aten.unsqueeze, aten.squeeze, aten.slice, aten.select, aten.split,
            aten.split_with_sizes, aten.chunk, aten.unbind, aten.cat, aten.stack, aten.flatten,
            aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.flip, aten.roll,
            aten.repeat, aten.clone, aten.contiguous, aten.alias, aten.detach, aten._to_copy,
            aten.index, aten.index_select, aten.embedding, aten.narrow, aten.unfold, aten.unflatten,
            aten.repeat_interleave, aten.lift_fresh_copy, aten.real, aten.imag,
        ),
        _move,
    ),
    **dict.fromkeys(
        (
            aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
            aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_linear1d,
            aten.avg_pool1d, aten.avg_pool2d, aten.max_pool1d, aten.max_pool2d,
            aten.max_pool2d_with_indices, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d,
            aten.adaptive_max_pool2d, aten._adaptive_avg_pool2d, aten.grid_sampler_2d,
            aten.grid_sampler, aten._upsample_nearest_exact2d,
        ),
        _maps(None),
    ),
    **dict.fromkeys(
        (aten.reflection_pad1d, aten.replication_pad1d), _maps(1)
    ),
    **dict.fromkeys(
        (aten.reflection_pad2d, aten.replication_pad2d), _maps(2)
    ),
    **dict.fromkeys((aten.pad, aten.constant_pad_nd), _pad),
    **dict.fromkeys((aten._fft_r2c, aten._fft_c2r, aten._fft_c2c, aten.fft_rfftn,
                     aten.fft_irfftn, aten.fft_rfft2, aten.fft_irfft2), _fourier),
    **dict.fromkeys(
        (
            aten.conv1d, aten.conv2d, aten.conv3d,
            aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d,
        ),
        _convolution,
    ),
    **dict.fromkeys((aten.mm, aten.bmm, aten.matmul, aten.mv), _matmul),
    **dict.fromkeys((aten.addmm, aten.baddbmm), _addmm),
    aten.linear: _linear,
    aten.view_as_real: _view_as_real,
    aten.complex: _elementwise,
    aten.scaled_dot_product_attention: _attention,
    **dict.fromkeys(
        (
            aten.mean, aten.var, aten.std, aten.var_mean, aten.amax, aten.amin, aten.sum,
            aten.linalg_vector_norm,
        ),
        _reduce,
    ),
    **dict.fromkeys((aten.max, aten.min), _best),
    **dict.fromkeys((aten.softmax, aten._softmax), _softmax),
    aten.layer_norm: _layer_norm,
    aten.group_norm: _group_norm,
    **dict.fromkeys(
        (aten.instance_norm, aten._native_batch_norm_legit_no_training, aten.prelu), _per_channel
    ),
}  # fmt: skip
