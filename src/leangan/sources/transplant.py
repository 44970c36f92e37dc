"""The way back: a generator's weights in the user's own live module."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.graph.difference import share_of_range
from leangan.graph.rewrite import TOLERANCE, trace_inputs
from leangan.sources.fit import CannotFit, fit_input, fit_weights

_NORMS = nn.modules.batchnorm._NormBase
_TORCH = str(Path(torch.__file__).parent)
_WITHOUT = "The saved generator.pt2 runs without that code."


def transplant(generator: Generator, module: nn.Module) -> nn.Module:
    """Write the weights of a pruned generator into a copy of the module that it came from.

    Parameters are found by their paths, and the attributes in which PyTorch's layers hold their
    widths are set. weight_norm and spectral_norm are removed, since their product was stored on
    loading; a norm that was folded into its layer stays as one that computes the identity in eval
    mode. In training mode it normalises by the batch again.

    Args:
        generator: float, pruned (or not) right after loading; rewrites of `compress` for one
            runtime have other layers than the module.
        module: the network as it was loaded, before pruning; left as it is.

    Returns:
        A copy of `module` with its modes, device and type, whose output in eval mode was compared
        with the generator's on random inputs of two sizes, to 1e-4 of the range.

    Raises:
        UsageError: the generator is quantized, or has layers that the module has not.
        LeanganError: the module's code does not allow other widths (literal sizes, weights that
            it computes); the layer and the line are named.
    """
    name = type(module).__name__
    if generator.quantized:
        raise UsageError(
            f"{generator.name} is quantized, and a module of float layers cannot hold that; "
            "transplant before you quantize."
        )
    made = _copied(module)
    modes = [(m, m.training) for m in made.modules()]
    placed = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    made.eval().to("cpu", torch.float32)
    _bake_reparameterizations(made)
    spare = _fill(made, dict(_tensors(generator.module())), name)
    folded = {path.rpartition(".")[0] for path in spare if path.endswith("running_mean")}
    trials = _two_sizes(generator)
    _set_widths(made, trials[0], name, folded)
    lost = [p for p in spare if p.rpartition(".")[0] not in folded]
    _compare(generator, made, trials, name, lost)
    for m, training in modes:
        m.training = training
    return made.to(placed.device, placed.dtype)


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy; weights that a hook computed are in no position to be copied otherwise."""
    known = {
        id(value): value.detach().clone()
        for m in module.modules()
        for value in vars(m).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, known)


def _bake_reparameterizations(module: nn.Module) -> None:
    """What loading did to the graph: store the product of weight_norm and the like."""
    for m in module.modules():
        if parametrize.is_parametrized(m):
            for path in list(m.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(m, path, leave_parametrized=True)
        for hook in list(m._forward_pre_hooks.values()):
            path = getattr(hook, "name", None)
            if isinstance(path, str) and type(hook).__name__ == "WeightNorm":
                nn.utils.remove_weight_norm(m, path)
            elif isinstance(path, str) and type(hook).__name__ == "SpectralNorm":
                nn.utils.remove_spectral_norm(m, path)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _fill(module: nn.Module, weights: dict[str, Tensor], name: str) -> list[str]:
    """Set every weight by its path, and its ties; returns the paths that got none."""
    before = dict(_tensors(module))
    places: dict[int, list[str]] = {}
    for path, tensor in before.items():
        places.setdefault(id(tensor), []).append(path)
    filled: set[str] = set()
    for path, value in weights.items():
        owner, leaf = _place(module, path)
        if owner is None:
            if isinstance(value, nn.Parameter):
                raise UsageError(
                    f"{name} has no {path}, which the generator has: give the module that was "
                    f"loaded, as it was before pruning. {_WITHOUT}"
                )
            continue  # a number that the code itself holds
        if path in filled:
            continue
        old = before.get(path)
        new = _like(value, old, learned=leaf in owner._parameters)
        for tied in places[id(old)] if old is not None else [path]:
            holder, last = _place(module, tied)
            assert holder is not None
            _put(holder, last, new)
            filled.add(tied)
    return sorted(before.keys() - filled)


def _place(module: nn.Module, path: str) -> tuple[nn.Module | None, str]:
    """The submodule that holds `path` (also where it holds None), None when there is no such."""
    *parents, leaf = path.split(".")
    owner: nn.Module = module
    for part in parents:
        child = owner._modules.get(part)
        if child is None:
            return None, leaf
        owner = child
    there = leaf in owner._parameters or leaf in owner._buffers or leaf in vars(owner)
    return (owner if there else None), leaf


def _like(value: Tensor, old: Tensor | None, *, learned: bool) -> Tensor:
    value = value.detach().clone()
    if not learned:
        return value
    return nn.Parameter(value, old.requires_grad if old is not None else True)


def _put(owner: nn.Module, leaf: str, value: Tensor) -> None:
    held = owner._parameters if leaf in owner._parameters else owner._buffers
    if leaf in held:
        held[leaf] = value  # type: ignore[assignment]
    else:
        vars(owner)[leaf] = value


def _two_sizes(generator: Generator) -> list[tuple[Tensor, ...]]:
    first = trace_inputs(generator, seed=0)
    sizes = {
        letter: size + port.multiple_of(axis)
        for port, x in zip(generator.signature.inputs, first, strict=True)
        for axis, (letter, size) in enumerate(zip(port.layout, x.shape, strict=True))
    }
    return [first, generator.example(sizes, seed=1)]


def _set_widths(
    module: nn.Module, inputs: Sequence[Tensor], name: str, folded: Collection[str]
) -> None:
    """Each layer takes its widths from its weights, then from what comes in when it runs."""
    for layer in module.modules():
        fit_weights(layer)
    with _watched(module, folded) as reached:
        try:
            with torch.no_grad():
                module(*inputs)
        except Exception as error:
            at = f" in front of or in {reached[-1]}" if reached else ""
            if isinstance(error, CannotFit):
                at = ""
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise LeanganError(
                f"The code of {name} does not allow other widths: {_line_of(error)} fails{at} "
                f"({reason}). Take sizes from the tensors (x.shape[1]) or from the layers there. "
                f"{_WITHOUT}"
            ) from error


@contextmanager
def _watched(module: nn.Module, folded: Collection[str]) -> Iterator[list[str]]:
    """Fit every layer just before it runs; yields the paths of those that were reached."""
    reached: list[str] = []
    handles = []
    for path, layer in module.named_modules():
        if next(layer.children(), None) is not None:
            continue

        def before(layer: nn.Module, inputs: tuple[object, ...], path: str = path) -> None:
            reached.append(path)
            if inputs and isinstance(inputs[0], Tensor):
                fit_input(path, layer, inputs[0], neutral=path in folded)

        handles.append(layer.register_forward_pre_hook(before))
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


def _line_of(error: Exception) -> str:
    """The line of the user's own code that led to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    theirs = [f for f in frames if not f.filename.startswith((_TORCH, ours))]
    if not theirs:
        return "a line of it"
    last = theirs[-1]
    return f"line {last.lineno} of {Path(last.filename).name}, `{(last.line or '').strip()}`,"


def _compare(
    generator: Generator,
    module: nn.Module,
    trials: Sequence[tuple[Tensor, ...]],
    name: str,
    lost: Sequence[str],
) -> None:
    for inputs in trials:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            expected = generator.outputs(*inputs)
            torch.manual_seed(0)
            try:
                with torch.no_grad():
                    result = module(*inputs)
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                raise LeanganError(
                    f"The code of {name} does not allow other widths at every size: "
                    f"{_line_of(error)} fails ({reason}). {_WITHOUT}"
                ) from error
        found = tuple(result) if isinstance(result, tuple | list) else (result,)
        difference = max(
            (_difference(a, b) for a, b in zip(expected, found, strict=False)), default=0.0
        )
        if not difference <= TOLERANCE or len(found) != len(expected):
            computed = (
                f" It computes something from {', '.join(lost[:3])}, which was computed once on "
                "loading and is no weight of the generator any more."
                if lost
                else " It computes its weights, or holds sizes as numbers."
            )
            raise LeanganError(
                f"The code of {name} does not compute what the pruned generator does (difference "
                f"{difference:.1e} of the range).{computed} {_WITHOUT}"
            )


def _difference(a: Tensor, b: object) -> float:
    return share_of_range(a, b) if isinstance(b, Tensor) else float("inf")
