"""Turn a live module into an exported program with as many free sizes as it allows."""

from __future__ import annotations

import inspect
import io
import logging
import operator
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import _should_decompose_because_unsafe_op
from torch._export.verifier import Verifier
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int, statically_known_true
from torch.nn import functional as F

from leangan.errors import LeanganError
from leangan.graph.operators import aten
from leangan.graph.plainer import PLAINER

_VIEWS = frozenset(
    {
        aten.expand.default,
        aten.permute.default,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.squeeze.dims,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
"""They share memory with their input, which is harmless where nothing is written."""
_OF_PYTHON = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem}
)
"""Of sizes that are free, and of what operators with several results put out."""


def capture(
    module: nn.Module, inputs: Sequence[Tensor], free_axes: Sequence[Collection[int]]
) -> ExportedProgram:
    """Export `module` in eval mode as a functional ATen program.

    High-level operators (convolution, norms, pixel_shuffle, pad, upsample) stay whole, in-place
    ones become plain, those of `PLAINER` their plainer forms, dropout goes; BatchNorm becomes
    `_native_batch_norm_legit_no_training`.

    Args:
        module: the network. Its mode is restored afterwards.
        inputs: example tensors. Free axes must be 2 or more and differ from each other, or the
            export takes an accident of the example for a law.
        free_axes: per input the axes to leave symbolic. The program may still fix one of them
            where the code needs it as a number: read `input_shapes` for what came out.

    Raises:
        LeanganError: the code depends on tensor values in a way that cannot be exported.
    """
    dynamic: tuple[Any, ...] = tuple(dict.fromkeys(axes, Dim.AUTO) for axes in free_axes)
    if _takes_any_number(module):
        dynamic = (dynamic,)  # the export takes forward's one parameter for one input
    training = module.training
    # An exported GraphModule has no modes to switch (and says so); it was captured in eval.
    if training and not isinstance(module, torch.fx.GraphModule):
        module.eval()
    try:
        # What cannot be exported is printed as a graph to stderr as well as raised.
        with torch.no_grad(), quiet(), redirect_stderr(io.StringIO()), _max_pools_of_free_sizes():
            program = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic)
            if all(map(_stays, program.graph.nodes)):
                program._verifiers = [Verifier]  # of plain ATen, as the decompositions say
            else:
                program = program.run_decompositions(PLAINER)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise LeanganError(
            f"{type(module).__name__} cannot be turned into a graph: "
            f"{type(error).__name__}: {reason}"
        ) from error
    finally:
        if training and not isinstance(module, torch.fx.GraphModule):
            module.train()
    program.example_inputs = None
    program._guards_code = []
    _views_of_unknown_strides(program)
    return program


def _stays(node: torch.fx.Node) -> bool:
    """Whether the decompositions leave it as it is: they trace it all anew, which takes long.

    An operator that writes or hands on its input's memory is made plain there, but for the plain
    views, and so is one that is known to be unsafe to keep (BatchNorm, dropout).
    """
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    if node.target in _VIEWS or node.target in _OF_PYTHON:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    shared = [a for a in (*schema.arguments, *schema.returns) if a.alias_info is not None]
    unsafe = _should_decompose_because_unsafe_op(node.target)
    return not shared and not unsafe and node.target not in PLAINER


def _takes_any_number(module: nn.Module) -> bool:
    """Whether it has forward(*inputs)."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


@contextmanager
def _max_pools_of_free_sizes() -> Iterator[None]:
    """Adaptive max pooling to a share of a free size as plain max pooling.

    The export takes the size that adaptive max pooling is asked for as a number. Plain pooling is
    the same at multiples of its kernel, and sources find out what those are.
    """
    functional: Any = F
    usual = functional.adaptive_max_pool2d

    def pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if isinstance(output_size, tuple | list) and not return_indices:
            sizes = list(zip(input.shape[-2:], output_size, strict=True))
            kernel = [_hint(n) // max(1, _hint(wanted)) for n, wanted in sizes]
            shares = [n // k == wanted for (n, wanted), k in zip(sizes, kernel, strict=True)]
            free = any(isinstance(wanted, torch.SymInt) for wanted in output_size)
            if free and all(map(statically_known_true, shares)):
                return F.max_pool2d(input, kernel)
        return usual(input, output_size, return_indices)

    functional.adaptive_max_pool2d = pool
    try:
        yield
    finally:
        functional.adaptive_max_pool2d = usual


def _hint(size: Any) -> int:
    """The size in the example, without making a law of it."""
    known: Any = size.node.hint if isinstance(size, torch.SymInt) else size
    return int(known or 1)


def _views_of_unknown_strides(program: ExportedProgram) -> None:
    """Attention and FFTs lay results out as the kernel likes that PyTorch picks when it runs.

    A view that the export found possible may not be so then; a reshape copies where it must.
    """
    keep = (aten.transpose.int, aten.permute.default, aten.select.int, aten.view_as_real.default)
    moved = set()
    for node in program.graph.nodes:
        source = node.args[0] if node.args else None
        if (
            node.target is aten.scaled_dot_product_attention.default
            or "fft_" in str(node.target)
            or (source in moved and node.target in keep)
        ):
            moved.add(node)
        elif source in moved and node.target is aten.view.default:
            node.target = aten.reshape.default
    program.graph_module.recompile()


def input_shapes(program: ExportedProgram) -> list[tuple[int | None, ...]]:
    """The shape of each user input, None for a size that may vary."""
    names = program.graph_signature.user_inputs
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    return [_sizes(nodes[str(name)]) for name in names]


def output_shapes(program: ExportedProgram) -> list[tuple[int | None, ...]]:
    """The shape of each user output, None for a size that may vary."""
    names = program.graph_signature.user_outputs
    nodes = {n.name: n for n in program.graph.nodes}
    return [_sizes(nodes[str(name)]) for name in names]


def _sizes(node: torch.fx.Node) -> tuple[int | None, ...]:
    # A symbol that the export fixed on its way may still look like a symbol.
    return tuple(int(s) if is_concrete_int(s) else None for s in node.meta["val"].shape)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence third-party warnings that tell a user nothing; errors still come through."""
    loggers = [logging.getLogger(n) for n in ("torch", "torch.onnx", "onnxscript", "torchao")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what fails is raised as well as logged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
