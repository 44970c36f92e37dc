"""Rewrites that are always right: fewer operators, the same numbers."""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.fold_norms import fold_norms_back, fold_norms_forward
from leangan.graph.modulated import take_modulation_out
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.recognise import recognise_shuffles
from leangan.graph.rewrite import (
    free_path,
    new_tensor_node,
    rewrite,
    set_tensor,
    tensor_of,
    tidy,
)

TINY = torch.finfo(torch.float32).tiny
"""The least normal float32; CPUs compute up to a hundred times slower with what lies below."""


def normalize(generator: Generator) -> Generator:
    """The same function in its plainest form, proved equal on random input.

    Weights that are computed from stored tensors are computed once (weight_norm, spectral_norm),
    norms with fixed statistics are folded into the convolution or linear layer beside them,
    operators that do nothing go, denormal weights become 0. Quantize and dequantize operators
    are not touched.

    Returns:
        `generator` itself when there is nothing to do.
    """
    return rewrite(
        generator,
        "normalize",
        {
            "identities removed": remove_identities,
            "constants folded": fold_constants,
            "shuffles recognised": recognise_shuffles,
            "modulations taken out of kernels": take_modulation_out,
            "norms folded into the layer before": fold_norms_back,
            "norms folded into the layer after": fold_norms_forward,
            "squares as products": squares_as_products,
            "denormal weights flushed": flush_denormals,
        },
    )


# Identities


def remove_identities(module: GraphModule) -> int:
    """Drop operators that return their input: x -> clone -> y becomes x -> y."""
    count = 0
    # From the end, so that what a clone leaves to be viewed is known when it is looked at.
    for node in reversed(list(module.graph.nodes)):
        if node.op != "call_function" or not _is_identity(node):
            continue
        source = node.args[0]
        if source.op == "placeholder" and any(u.op == "output" for u in node.users):
            continue  # an input is never handed out as an output
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
        count += 1
    return count


def _is_identity(node: Node) -> bool:
    if not node.args or not isinstance(node.args[0], Node) or not _same_kind(node, node.args[0]):
        return False
    if is_call(node, aten.clone):
        # A copy in front of a view gives it the strides that it needs.
        return not any(is_call(u, aten.view, aten._unsafe_view) for u in node.users)
    if is_call(node, aten.alias, aten.detach, aten.contiguous, aten._to_copy):
        return True
    if is_call(node, aten.view, aten.reshape, aten.expand):
        return True  # to the shape that it had
    if is_call(node, aten.mul, aten.div):
        return _is_number(node.args[1], 1) and len(node.args) == 2 and not node.kwargs
    if is_call(node, aten.add, aten.sub):
        return _is_number(node.args[1], 0)
    if is_call(node, aten.pad):
        return all(isinstance(p, int) and p == 0 for p in arguments(node)["pad"])
    if is_call(node, aten.permute):
        dims: Any = node.args[1]
        return list(dims) == sorted(dims)
    if is_call(node, aten.slice):
        return arguments(node)["step"] == 1  # and the shape is as before
    return False


def _is_number(value: Any, wanted: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == wanted


def _same_kind(a: Node, b: Node) -> bool:
    """Whether two nodes are known to hold tensors of one shape and type."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    if x.dtype != y.dtype or x.device != y.device or x.dim() != y.dim():
        return False
    return all(_expression(p) == _expression(q) for p, q in zip(x.shape, y.shape, strict=True))


def _expression(size: Any) -> Any:
    """What a size is made of, since what an export was traced at is held for known.

    A size that is padded to a multiple of 4, say, is one already then, and no crop crops.
    """
    return size.node.expr if isinstance(size, torch.SymInt) else size


# Constants


def fold_constants(module: GraphModule) -> int:
    """Compute once what depends on stored tensors only.

    weight_g, weight_v -> _weight_norm -> conv(x, .)   becomes   weight -> conv(x, .)
    """
    sources = _constants(module)
    wanted = {
        node: None
        for reader in module.graph.nodes
        if reader not in sources
        for node in reader.all_input_nodes
        if node in sources and node.op != "get_attr"
    }
    values: dict[Node, Any] = {}
    roots = [n for n in wanted if isinstance(_evaluate(module, n, values), Tensor)]
    folded = []
    for number, root in enumerate(roots):
        value = values[root]
        tensors = [t for t in (tensor_of(module, s) for s in sources[root]) if t is not None]
        learned = value.is_floating_point() and any(
            isinstance(t, torch.nn.Parameter) for t in tensors
        )
        node = new_tensor_node(module, root, f"_folded_{number}", value, learned=learned)
        node.meta = dict(root.meta)
        folded.append((node, _plain_path(module, sources[root]), value, learned))
    for root, (node, *_) in zip(roots, folded, strict=True):
        root.replace_all_uses_with(node)
    if roots:
        tidy(module)  # frees the names of what was folded
    for node, path, value, learned in folded:
        delattr(module, str(node.target))
        node.target = free_path(module, path)
        set_tensor(module, node.target, value, learned=learned)
    return len(roots)


def _constants(module: GraphModule) -> dict[Node, list[Node]]:
    """The nodes that depend on stored tensors only, each with the `get_attr` nodes it reads."""
    sources: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            sources[node] = [node]
        elif node.op == "call_function" and _may_fold(node):
            inputs = node.all_input_nodes
            if inputs and all(i in sources for i in inputs):
                sources[node] = list(dict.fromkeys(s for i in inputs for s in sources[i]))
    return sources


def _may_fold(node: Node) -> bool:
    if node.target is operator.getitem:
        return True
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags or "quantize" in str(node.target):
        return False
    # A broadcast written out would be stored at its full size.
    return not is_call(node, aten.expand, aten.repeat)


def _evaluate(module: GraphModule, node: Node, values: dict[Node, Any]) -> Any:
    if node not in values:
        if node.op == "get_attr":
            values[node] = tensor_of(module, node)
        else:
            for source in node.all_input_nodes:
                _evaluate(module, source, values)
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            target: Any = node.target
            with torch.no_grad():
                values[node] = target(*args, **kwargs)
    return values[node]


_PARAMETRIZED = re.compile(r"(.*?)parametrizations\.(\w+)\..*")
_HOOKED = re.compile(r"((?:.*\.)?\w+?)_(?:g|v|u|orig)")


def _plain_path(module: GraphModule, sources: list[Node]) -> str:
    """The path that a computed weight would have if it had always been stored.

    conv.weight_g, conv.parametrizations.weight.original0 -> conv.weight
    """

    def elements(node: Node) -> int:
        tensor = tensor_of(module, node)
        return 0 if tensor is None or not tensor.is_floating_point() else tensor.numel()

    path = str(max(sources, key=elements).target)
    if found := _PARAMETRIZED.fullmatch(path):
        return found[1] + found[2]
    if found := _HOOKED.fullmatch(path):
        return found[1]
    return path


# Values


def squares_as_products(module: GraphModule) -> int:
    """pow(x, 2) -> x * x: what every runtime does fast."""
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, aten.pow) and _is_number(node.args[1], 2):
            with module.graph.inserting_before(node):
                product = module.graph.call_function(aten.mul.Tensor, (node.args[0],) * 2)
            product.meta = dict(node.meta)
            node.replace_all_uses_with(product)
            module.graph.erase_node(node)
            count += 1
    return count


def flush_denormals(module: GraphModule) -> int:
    """Set weights below the least normal float32 to 0; returns the number of tensors changed."""
    count = 0
    for path in {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}:
        tensor = module.get_parameter(path) if _is_parameter(module, path) else None
        if tensor is None or tensor.dtype != torch.float32:
            continue
        small = (tensor.abs() < TINY) & (tensor != 0)
        if small.any():
            set_tensor(module, path, tensor.detach().masked_fill(small, 0.0))
            count += 1
    return count


def _is_parameter(module: GraphModule, path: str) -> bool:
    owner, _, leaf = path.rpartition(".")
    return leaf in module.get_submodule(owner)._parameters
