"""What a pruned network must compute: the original one with the removed channels silenced.

The reference shares nothing with graph/channels.py but the list of what is removed. It runs the
original graph, and beside each value a mask of the elements that belong to removed channels. They
are 0 after every operator; a mean, a norm or a maximum over channels is taken over those that are
left; a convolution must find removed weights exactly where it finds removed features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from leangan.errors import LeanganError
from leangan.generator import Generator, Step
from leangan.graph.channels import Coupling, slice_module
from leangan.graph.rewrite import TOLERANCE, recapture, tensor_of
from leangan.testing.silence_rules import Wrong, rule_of

Inputs = tuple[Tensor, ...]
Keep = Mapping[str, Sequence[int]]


def silenced(
    generator: Generator, coupling: Coupling, keep: Keep
) -> Callable[..., tuple[Tensor, ...]]:
    """The original network without the effect of the removed channels.

    Args:
        generator: is left as it is.
        coupling: of this generator.
        keep: per group name the channels that are left; groups that are not named stay whole.

    Returns:
        A function of the generator's inputs that returns all outputs in their original shapes. It
        raises `Wrong` where the removed slices do not fit together.
    """
    module = generator.module()
    masks = _removed(module, coupling, keep)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            result = _Silenced(module, masks).run(*inputs)
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    return run


def params_left(generator: Generator, coupling: Coupling, keep: Keep) -> int:
    """The number of learned weights that are not removed."""
    module = generator.module()
    masks = _removed(module, coupling, keep)
    return sum(
        int((~masks[id(p)]).sum()) if id(p) in masks else p.numel() for p in module.parameters()
    )


def check(
    generator: Generator,
    coupling: Coupling,
    keep: Keep,
    inputs: Sequence[Inputs],
    *,
    export: bool = True,
    seed: int = 0,
) -> Generator | None:
    """Prove that slicing gives the silenced network.

    Args:
        generator: is left as it is.
        coupling: of this generator.
        keep: per group name the channels that are left.
        inputs: what to run on, of different sizes.
        export: also export the sliced graph again, save it and load it.
        seed: of random numbers that the graph itself draws.

    Returns:
        The pruned generator, loaded from its file; None without `export`.

    Raises:
        Wrong: outputs differ by more than rounding, or another number of weights is left.
    """
    sliced = slice_module(generator, coupling, keep).module
    expected = params_left(generator, coupling, keep)
    found = sum(p.numel() for p in sliced.parameters())
    if found != expected:
        raise Wrong(f"{found} weights are left, {expected} should be.")
    reference = silenced(generator, coupling, keep)
    wanted = [_seeded(reference, x, seed) for x in inputs]
    for x, y in zip(inputs, wanted, strict=True):
        _compare("The sliced graph", y, _seeded(sliced, x, seed))
    if not export:
        return None
    pruned = recapture(generator, sliced, Step("prune_channels"))
    with tempfile.TemporaryDirectory() as folder:
        from leangan.sources import load

        loaded = load(pruned.save(Path(folder) / "pruned.pt2"))
    for x, y in zip(inputs, wanted, strict=True):
        _compare("The saved generator", y, _seeded(loaded, x, seed))
    return loaded


def _seeded(run: Callable[..., Any], inputs: Inputs, seed: int) -> tuple[Tensor, ...]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        result = run(*inputs)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _compare(what: str, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for number, (x, y) in enumerate(zip(wanted, found, strict=True)):
        if x.shape != y.shape:
            raise Wrong(f"{what}: output {number} is {tuple(y.shape)}, not {tuple(x.shape)}.")
        if not bool(x.isfinite().all()):
            raise Wrong(f"Output {number} of the reference is not finite: choose other inputs.")
        # A discriminator's few scores may lie so near each other that rounding shows.
        spread = max(float(x.max() - x.min()), float(x.abs().max())) or 1.0
        difference = float((x - y).abs().max()) / spread
        if not difference <= TOLERANCE:
            raise Wrong(f"{what}: output {number} differs by {difference:.1e} of its range.")


def _removed(module: GraphModule, coupling: Coupling, keep: Keep) -> dict[int, Tensor]:
    """Per stored tensor (by identity, so that ties are one) which of its elements are removed."""
    masks: dict[int, Tensor] = {}
    for group in coupling.groups:
        kept = set(keep.get(group.name, range(group.width)))
        for member in group.members:
            owner, _, leaf = member.path.rpartition(".")
            tensor = getattr(module.get_submodule(owner), leaf)
            mask = masks.setdefault(id(tensor), torch.zeros(tensor.shape, dtype=torch.bool))
            for channel, places in enumerate(member.positions):
                if channel not in kept:
                    mask.index_fill_(member.axis, torch.tensor(places), True)
    return masks


class _Silenced(Interpreter):
    """Runs a graph on pairs of a value and the mask of its removed elements."""

    def __init__(self, module: GraphModule, stored: Mapping[int, Tensor]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.graph_module, self.stored = module, stored
        self.masks: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        """The value of a node with its removed elements set to 0."""
        if n.op == "call_function":
            masks: Any = map_arg((n.args, n.kwargs), lambda m: self.masks[m])
            try:
                value, mask = rule_of(n)(n.target, *self.fetch_args_kwargs_from_env(n), *masks)
            except Wrong as error:
                raise Wrong(f"{n.name}: {error}") from error
            value = _silence(value, mask)
        else:
            value = super().run_node(n)
            mask = _none(value)
            tensor = tensor_of(self.graph_module, n)
            if tensor is not None:
                mask = self.stored.get(id(tensor), mask)
                value = _silence(value, mask)
            if n.op == "output":
                self._check_output(n)
        self.masks[n] = mask
        return value

    def _check_output(self, node: Node) -> None:
        for source in node.all_input_nodes:
            if bool(self.masks[source].any()):
                raise Wrong(f"Channels of the output {source.name} are removed.")


def _none(value: Any) -> Any:
    """A mask of nothing, of the form of the value."""
    if isinstance(value, Tensor):
        return torch.zeros(value.shape, dtype=torch.bool)
    return [_none(v) for v in value] if isinstance(value, tuple | list) else None


def _silence(value: Any, mask: Any) -> Any:
    if isinstance(value, Tensor):
        if mask.shape != value.shape:
            raise LeanganError(f"A mask of {mask.shape} for a value of {value.shape}.")
        return value.detach().masked_fill(mask, 0) if bool(mask.any()) else value.detach()
    if isinstance(value, tuple | list):
        return [_silence(v, m) for v, m in zip(value, mask, strict=True)]
    return value
