"""Edit a generator's graph safely: change a copy, export it again, prove it equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError
from leangan.generator import Generator, Step
from leangan.graph.capture import capture, input_shapes
from leangan.graph.difference import rms_share, share_of_range

Edit = Callable[[GraphModule], int]
"""Changes a graph module in place and returns how many places it changed."""

TOLERANCE = 1e-4
"""Largest difference, as a share of the output's range, that float rounding may explain."""
CODES_TOLERANCE = 1e-3
"""The same as a root mean square, where values are rounded to codes: the last bit of a float
decides here and there which code is taken."""


def rewrite(generator: Generator, name: str, edits: Mapping[str, Edit]) -> Generator:
    """Apply exact edits in order and prove that the output is still the same.

    Args:
        generator: is left as it is.
        name: of the step that is added to the history, with the count of each edit that found
            something to do, and the largest difference that was seen (of quantized ones its root
            mean square).
        edits: by name.

    Returns:
        The rewritten generator; `generator` itself when no edit found anything to do.

    Raises:
        LeanganError: the rewritten graph does not compute the same, which is a bug of an edit.
    """
    module = generator.module()
    counts = {}
    for label, edit in edits.items():
        count = edit(module)
        if count:
            counts[label] = count
            tidy(module)
    if not counts:
        return generator
    result = recapture(generator, module, Step(name, counts))
    if generator.quantized:
        difference, most = largest_difference(generator, result, by=rms_share), CODES_TOLERANCE
    else:
        difference, most = largest_difference(generator, result), TOLERANCE
    if not difference <= most:
        raise LeanganError(
            f"Rewriting {generator.name} by {', '.join(counts)} changed its output by "
            f"{difference:.1e} of its range, which is more than rounding. Please report this."
        )
    step = Step(name, counts, {"largest_difference": difference})
    return generator.then(result.program, step)


@dataclass(frozen=True)
class Rewrite:
    """One exact edit as a function of a generator, see `rewrite`; made by `exact`."""

    name: str
    """Of the step in the history."""
    what: str
    """What it changes, in words."""
    edit: Edit

    def __call__(self, generator: Generator) -> Generator:
        """The rewritten generator; `generator` itself where there is nothing to do."""
        return rewrite(generator, self.name, {self.what: self.edit})

    def applies(self, generator: Generator) -> bool:
        """Whether there is something to do; the result is neither exported nor proved."""
        return self.edit(generator.module()) > 0


def exact(name: str, what: str) -> Callable[[Edit], Rewrite]:
    """Make a `Rewrite` of the edit below."""
    return lambda edit: Rewrite(name, what, edit)


def recapture(generator: Generator, module: GraphModule, step: Step) -> Generator:
    """The generator that `module`, an edited copy of its graph, stands for.

    Sizes that were free stay free, or an error is raised: a size that an edit fixed in silence
    would surface much later, at another picture.
    """
    free = [
        [axis for axis, size in enumerate(port.shape) if size is None]
        for port in generator.signature.inputs
    ]
    # The export makes a view of each reshape again, with a copy where one is needed.
    views_as_reshapes(module)
    program = capture(module, trace_inputs(generator), free)
    shapes = input_shapes(program)
    for port, shape in zip(generator.signature.inputs, shapes, strict=True):
        if shape != port.shape:
            raise LeanganError(
                f"{step.name} fixed sizes of input {port.name!r}: {port.shape} became {shape}. "
                "Please report this."
            )
    return generator.then(program, step)


def views_as_reshapes(module: GraphModule) -> None:
    """A view is impossible on some strides, which edits and layouts may leave; a reshape copies."""
    for node in module.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    module.recompile()


def trace_inputs(generator: Generator, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Example inputs fit for an export: free sizes are 2 or more, valid and all different."""
    sizes: dict[str, int] = {}
    taken: set[int] = set()
    for port in generator.signature.inputs:
        for axis, letter in enumerate(port.layout):
            if port.shape[axis] is not None or letter in sizes:
                continue
            multiple = port.multiple_of(axis)
            # Two multiples at least: a U-Net's innermost map of size 1 would look like a
            # broadcast; small otherwise, since only shapes matter.
            usual = max(32, generator.smallest_size) if letter in "HWT" else 2
            least = 2 if letter == "N" else max(2 * multiple, usual)
            size = -(-least // multiple) * multiple
            while size in taken:
                size += multiple
            sizes[letter] = size
            taken.add(size)
    return generator.example(sizes, seed=seed)


def largest_difference(
    a: Generator,
    b: Generator,
    *,
    seed: int = 1,
    by: Callable[[Tensor, Tensor], float] = share_of_range,
) -> float:
    """Largest difference of the outputs on random input, as a share of their range.

    Args:
        a: what is expected.
        b: takes the same inputs.
        seed: of the inputs.
        by: how two outputs are compared; by their largest absolute difference when left out.
    """
    inputs = trace_inputs(a, seed=seed)
    worst = 0.0
    with torch.random.fork_rng():  # a graph that draws noise must draw the same in both
        torch.manual_seed(seed)
        expected = a.outputs(*inputs)
        torch.manual_seed(seed)
        found = b.outputs(*inputs)
    for x, y in zip(expected, found, strict=True):
        # What is not finite must be so in both: the largest of numbers and NaN is no NaN.
        if x.shape != y.shape or not torch.equal(x.isfinite(), y.isfinite()):
            return float("inf")
        x, y = x[x.isfinite()], y[y.isfinite()]
        worst = max(worst, by(x, y))
    return worst


def tidy(module: GraphModule) -> None:
    """Drop what nothing uses any more: nodes, then tensors and empty submodules."""
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    used = {n.target for n in module.graph.nodes if n.op == "get_attr"}
    for path in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if path not in used:
            owner, _, leaf = path.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    module.recompile()


def tensor_of(module: GraphModule, node: Any) -> Tensor | None:
    """The stored tensor that a `get_attr` node reads, None for any other node or value."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def set_tensor(module: torch.nn.Module, path: str, value: Tensor, *, learned: bool = True) -> None:
    """Store `value` under the dotted `path`, making the submodules on the way."""
    owner: torch.nn.Module = module
    *parents, leaf = path.split(".")
    for part in parents:
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    value = value.detach().contiguous()
    if learned:
        owner.register_parameter(leaf, torch.nn.Parameter(value, value.is_floating_point()))
    else:
        owner.register_buffer(leaf, value)


def new_tensor_node(
    module: GraphModule, before: Node, path: str, value: Tensor, *, learned: bool = True
) -> Node:
    """Store `value` under `path` and put a node that reads it in front of `before`."""
    set_tensor(module, path, value, learned=learned)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(path)


def replace_tensor(module: GraphModule, user: Node, old: Node, value: Tensor) -> Node:
    """A new node in front of `user` that reads `value` in place of what `old` reads.

    Stored under the path of `old` when nothing but `user` reads that, so that the layer keeps its
    name; else beside it, and the other readers are left alone.
    """
    path = str(old.target)
    stored = tensor_of(module, old)
    same = module.graph.find_nodes(op="get_attr", target=path)
    if any(reader is not user for node in same for reader in node.users):
        path = free_path(module, path)
    learned = isinstance(stored, torch.nn.Parameter)
    return new_tensor_node(module, user, path, value, learned=learned)


def free_path(module: torch.nn.Module, path: str) -> str:
    """`path`, or one like it under which nothing is stored yet: `up.weight`, `up_2.weight`, ..."""
    wanted = path.split(".")
    parts, number = list(wanted), 1
    while (place := _in_the_way(module, parts)) is not None:
        number += 1
        if place == len(parts) - 1:
            place = max(place - 1, 0)  # the layer gets the number, not its weight
        parts[place] = f"{wanted[place]}_{number}"
    return ".".join(parts)


def _in_the_way(module: torch.nn.Module, parts: Sequence[str]) -> int | None:
    """Which part of a path is taken: the last one, or one that is a tensor and no folder."""
    value: Any = module
    for place, part in enumerate(parts):
        if not hasattr(value, part):
            return None
        value = getattr(value, part)
        if not isinstance(value, torch.nn.Module):
            return place
    return len(parts) - 1


def layer_name(node: Node) -> str:
    """The name people know a weighted operator by: its weight's path without the last part."""
    weight = codes_behind(node.args[1]) if len(node.args) > 1 else None
    if isinstance(weight, Node) and weight.target is torch.ops.aten.matmul.default:
        weight = weight.args[1]  # a kernel that is computed from a stored one
    if isinstance(weight, Node) and weight.op == "get_attr":
        path = str(weight.target).removesuffix("_int8")
        owner, _, leaf = path.rpartition(".")
        return owner if leaf in ("weight", "kernel") and owner else path
    return node.name


def codes_behind(weight: Any) -> Any:
    """The node that reads a weight's codes, where it is quantized; else `weight` itself."""
    node, coded = weight, False
    while isinstance(node, Node) and node.op == "call_function" and node.args:
        coded |= "quantize" in str(node.target)
        if not ("quantize" in str(node.target) or node.target in _RESHAPES):
            break
        node = node.args[0]
    return node if coded else weight


_RESHAPES = (
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.transpose.int,
)
"""What stands behind the codes of groups within a channel."""
