"""Convolutions in place of one, fitted to what the layer reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.channels import Sliced
from leangan.graph.operators import Convolution, read_convolution
from leangan.graph.rewrite import layer_name, new_tensor_node, recapture, tensor_of, tidy
from leangan.techniques.crop import crop_share
from leangan.techniques.lighten.parts import Part, calls, fit_last, together
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.moments import Correlations
from leangan.techniques.order import refuse_quantized
from leangan.techniques.patches import Layer, read_layer

_SMALLEST = 8
"""Channels below which a layer is left alone: what enters and leaves the picture."""
_DAMPING = 1e-3
"""Share of the mean square of the inputs added to each, for what few positions do not show."""
_PROBES, _CROP = 8, 0.5
"""How many samples are used, and which share of each."""

Samples = Sequence[tuple[Tensor, ...]]


Split = Callable[[Tensor, Tensor], Sequence[Part] | None]
"""From a weight (out, in, ...) and the second moments of the patches that it reads, (in * taps,
in * taps) in float64, to what takes its place, not grouped at the end; None where it stays."""


def split_layers(
    generator: Generator, split: Split, step: Step, samples: Samples, smallest: int = _SMALLEST
) -> Generator:
    """Each plain convolution that `split` takes apart, as those parts.

    With samples, layer after layer is split for what it reads once those before it are, and the
    last part fitted to what the original puts out. Without, all inputs count alike.

    Args:
        generator: float.
        split: makes the parts; they see together what the kernel saw.
        step: what the history says.
        samples: inputs, or none.
        smallest: layers of fewer channels on either side are left alone.

    Raises:
        UsageError: the generator is quantized.
        LeanganError: nothing was split.
    """
    refuse_quantized(generator, step.name)
    module = generator.module()
    found = _plain_convolutions(module, smallest)
    with torch.no_grad():
        if samples:
            probes = [crop_share(generator, x, _CROP) for x in samples[:_PROBES]]
            parts = _fitted(generator.module(), module, set(found), split, probes)
        else:
            parts = {}
            for node, (_, weight) in found.items():
                columns = weight[0].numel()
                parts[node] = split(weight, torch.eye(columns, dtype=torch.float64))
    changed: dict[str, list[int]] = {}
    for node, (conv, weight) in found.items():
        chosen = parts[node]
        if chosen is not None:
            _replace(module, node, conv, chosen)
            changed[layer_name(node)] = [weight.numel(), sum(p.weight.numel() for p in chosen)]
    if not changed:
        raise LeanganError(f"{generator.name} has no convolution that {step.name} makes cheaper.")
    tidy(module)
    return recapture(generator, module, Step(step.name, step.settings, {"weights": changed}))


def check_share(name: str, share: float) -> None:
    """Refuse what is no share.

    Raises:
        UsageError: it does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"{name} leaves a share between 0 and 1; {share} is none.")


def _plain_convolutions(
    module: GraphModule, smallest: int
) -> dict[Node, tuple[Convolution, Tensor]]:
    found = {}
    for node in module.graph.nodes:
        conv = read_convolution(node)
        if conv is None or conv.transposed or conv.groups != 1 or conv.padding is None:
            continue
        weight = tensor_of(module, conv.weight)
        if weight is not None and min(weight.shape[:2]) >= smallest:
            found[node] = conv, weight.detach()
    return found


def _fitted(
    original: GraphModule, module: GraphModule, nodes: set[Node], split: Split, samples: Samples
) -> dict[Node, Sequence[Part] | None]:
    """The parts of each node of `module`, whose weights become what these are together."""
    rng = torch.Generator().manual_seed(0)
    walk = Lockstep(original, Sliced(module, {}), samples)
    parts: dict[Node, Sequence[Part] | None] = {}
    made: dict[str, Sequence[Part] | None] = {}
    for node in walk.steps():
        layer = read_layer(module, node) if node in nodes else None
        if layer is None:
            continue
        path = str(layer.weight.target)
        if path not in made:  # else it is shared, and done
            made[path] = _fit(walk, node, layer, split, rng)
        parts[node] = made[path]
        if parts[node] is not None:
            walk.differs.add(node.name)  # the walk took it for unchanged when it came to it
            walk.forget(node)
    return parts


def _fit(
    walk: Lockstep, node: Node, layer: Layer, split: Split, rng: torch.Generator
) -> Sequence[Part] | None:
    """The parts of one layer, whose weight becomes what they are together."""
    weight, bias = (tensor_of(walk.changed, n) for n in (layer.weight, layer.bias))
    assert weight is not None
    assert layer.conv is not None
    inputs, targets = walk.values(layer.x), walk.originals(node)
    seen = Correlations(layer, tuple(weight.shape[2:]), inputs, rng)
    moments = seen.moments(seen.phases[0][1])[0].double()
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean() + 1e-30)
    parts = split(weight, moments)
    if parts is None:
        return None
    if bias is not None and layer.bias is not None and len(layer.bias.users) > 1:
        axes = (1,) * layer.conv.axes
        targets = [y - bias.reshape(-1, *axes) for y in targets]
        bias = None
    parts, shift = fit_last(parts, layer.conv, inputs, targets, bias)
    weight.copy_(together(parts))
    if bias is not None and shift is not None:
        bias.copy_(shift)
    return parts


def _replace(module: GraphModule, node: Node, conv: Convolution, parts: Sequence[Part]) -> None:
    name = str(conv.weight.target).removesuffix(".weight")
    plain = getattr(torch.ops.aten, str(node.target).split(".")[1]).default
    value = conv.x
    for i, (part, call) in enumerate(zip(parts, calls(conv, parts), strict=True)):
        weight = new_tensor_node(module, node, f"{name}_{i}.weight", part.weight)
        bias = conv.bias if i == len(parts) - 1 else None
        with module.graph.inserting_before(node):
            value = module.graph.call_function(
                plain,
                (value, weight, bias, call.stride, call.padding, call.dilation, part.groups),
            )
    node.replace_all_uses_with(value)
    module.graph.erase_node(node)
