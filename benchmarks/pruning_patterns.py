"""Prune half of every network's channels, beside Torch-Pruning: does it run, is it right?

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_patterns.py [NAME...] [--checkpoint netG_epoch_4_100.pth] [--no-zoo]

Both get the network and its inputs. Torch-Pruning is also told which layers make the output
(`ignored_layers`, as its documentation asks for), which leangan finds by itself; it uses its
default pruner and importance, and its own detection of parameters outside of layers. Both remove
half of each group by magnitude. "Right" means: at two sizes the output has its shape and equals
that of the original with the removed channels silenced. "not comparable" means that it runs and
keeps its shape, but removed other things than whole groups of coupled channels.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import leangan as lg
from leangan import zoo
from leangan.architectures.rrdb import RRDB
from leangan.architectures.srvgg import SRVGG
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.channels import Coupling, Group, couple
from leangan.graph.rewrite import TOLERANCE
from leangan.sources.checkpoint import load_checkpoint
from leangan.testing.patterns import PATTERNS, settle
from leangan.testing.silence import Wrong, check, silenced

Inputs = tuple[Tensor, ...]
PATIENCE = 120
"""Seconds after which Torch-Pruning's turn on one network ends."""


@dataclass(frozen=True)
class Case:
    """One network."""

    name: str
    module: Callable[[], nn.Module]
    inputs: tuple[Inputs, Inputs]
    outputs: tuple[str, ...]
    """Names of the layers that make the output."""


@dataclass(frozen=True)
class Outcome:
    """What pruning it gave."""

    left: float | None
    """Share of the weights, None when it failed before anything was removed."""
    verdict: str


def cases(checkpoint: Path | None, with_zoo: bool) -> list[Case]:
    found = [
        Case(
            p.name,
            p.build,
            (p.inputs(0), p.inputs(1)),
            tuple(w.rpartition(".")[0] for w in p.whole),
        )
        for p in PATTERNS.values()
    ]
    pictures = (torch.rand(1, 3, 32, 32), torch.rand(2, 3, 40, 48))
    images = ((pictures[0],), (pictures[1],))
    latents = ((torch.randn(2, 100, 1, 1),), (torch.randn(3, 100, 1, 1),))
    if with_zoo:
        for name, inputs in (("cyclegan-vintage", images), ("dcgan-faces", latents)):
            found.append(_stored(f"zoo:{name}", zoo.files(name)[0], inputs))
        # Their files are no PyTorch ones: the same networks with random weights.
        found.append(_random("RRDBNet-6 (x4plus-anime)", lambda: RRDB.build(blocks=6), images))
        found.append(_random("SRVGG-16 (animevideov3)", lambda: SRVGG.build(), images))
    if checkpoint is not None:
        found.append(_stored(checkpoint.name, checkpoint, images))
    return found


def _stored(name: str, path: Path, inputs: tuple[Inputs, Inputs]) -> Case:
    return Case(name, lambda: load_checkpoint(path)[0], inputs, ())


def _random(name: str, build: Callable[[], nn.Module], inputs: tuple[Inputs, Inputs]) -> Case:
    def made() -> nn.Module:
        torch.manual_seed(0)
        module = build()
        settle(module)
        return module.eval()

    return Case(name, made, inputs, ())


def run(module: Callable[..., object], inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        result = module(*inputs)
    return list(result) if isinstance(result, tuple | list) else [result]  # type: ignore[list-item]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}".replace("|", "/")[:90]


# Ours


def largest_half(generator: Generator, group: Group) -> list[int]:
    """The half of the channels with the largest weights, over all members."""
    module = generator.module()
    score = torch.zeros(group.width)
    for member in group.members:
        owner, _, leaf = member.path.rpartition(".")
        tensor = getattr(module.get_submodule(owner), leaf).detach()
        rows = tensor.movedim(member.axis, 0).reshape(tensor.shape[member.axis], -1).abs().sum(1)
        score += torch.stack([rows[list(places)].sum() for places in member.positions])
    return sorted(score.topk((group.width + 1) // 2).indices.tolist())


def ours(case: Case, generator: Generator, coupling: Coupling) -> Outcome:
    if not coupling.groups:
        return Outcome(1.0, "says that nothing can be removed")
    keep = {g.name: largest_half(generator, g) for g in coupling.groups}
    try:
        pruned = check(generator, coupling, keep, case.inputs)
    except (LeanganError, Wrong, RuntimeError) as error:
        return Outcome(None, f"FAILS: {reason(error)}")
    assert pruned is not None
    return Outcome(pruned.params / generator.params, "right")


# Torch-Pruning


def output_layers(
    case: Case, module: nn.Module, coupling: Coupling
) -> list[nn.Module | nn.Parameter]:
    """The layers, and parameters outside of layers, that make the output."""
    if case.outputs:
        return [module.get_submodule(name) for name in case.outputs]
    free = {m.path for g in coupling.groups for m in g.members if m.role != "in"}
    plain = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = {n: part for n, part in module.named_modules() if isinstance(part, plain)}
    found: list[nn.Module | nn.Parameter] = [
        part for name, part in layers.items() if f"{name}.weight" not in free
    ]
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        if name not in free and not type(owner).__module__.startswith("torch.nn"):
            found.append(parameter)
    return found


def theirs(case: Case, generator: Generator, coupling: Coupling) -> Outcome:
    import torch_pruning as tp

    module = case.module()
    before, original = count(module), [run(module, x) for x in case.inputs]
    names = {part: name for name, part in module.named_modules()}
    left: dict[str, list[int]] = {}
    try:
        example: object = case.inputs[0] if len(case.inputs[0]) > 1 else case.inputs[0][0]
        pruner = tp.pruner.BasePruner(
            module,
            example,
            importance=tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=output_layers(case, module, coupling),
        )
        for group in pruner.step(interactive=True):
            gone = {}
            for dep, places in group:
                target = dep.target.module
                if pruner.DG.is_out_channel_pruning_fn(dep.handler) and target in names:
                    gone[target] = {int(p) for p in places}
            for target, places in gone.items():
                width = pruner.DG.get_out_channels(target)
                if width is None:
                    continue
                now = left.setdefault(names[target], list(range(width)))
                left[names[target]] = [c for i, c in enumerate(now) if i not in places]
            group.prune()
    except Exception as error:  # whatever a third party raises is an outcome
        return Outcome(None, f"fails while pruning: {reason(error)}")
    share = count(module) / before
    try:
        after = [run(module, x) for x in case.inputs]
    except Exception as error:
        return Outcome(share, f"forward fails: {reason(error)}")
    for x, y in zip(original, after, strict=True):
        if [t.shape for t in x] != [t.shape for t in y]:
            return Outcome(
                share, f"output becomes {tuple(y[0].shape[1:])}, not {tuple(x[0].shape[1:])}"
            )
    if share == 1:
        return Outcome(share, "removes nothing, says nothing")
    keep = translated(coupling, left)
    if keep is None:
        return Outcome(share, "runs; not comparable")
    try:
        reference = silenced(generator, coupling, keep)
        worst = max(
            float((a - b).abs().max()) / (float(a.max() - a.min()) or 1.0)
            for x, y in zip(case.inputs, after, strict=True)
            for a, b in zip(reference(*x), y, strict=True)
        )
    except Wrong as error:
        return Outcome(share, f"runs; reference: {reason(error)}")
    return Outcome(share, "right" if worst <= TOLERANCE else f"WRONG by {worst:.0e} of the range")


def translated(coupling: Coupling, left: dict[str, list[int]]) -> dict[str, list[int]] | None:
    """Output channels left per layer as channels of our groups; None if they do not fit."""
    keep = {}
    for group in coupling.groups:
        kept: list[int] | None = None
        for member in group.members:
            layer, _, leaf = member.path.rpartition(".")
            if member.role != "out" or leaf != "weight" or layer not in left:
                continue
            there = [{p in left[layer] for p in places} for places in member.positions]
            if any(len(t) > 1 for t in there):
                return None
            found = [c for c, t in enumerate(there) if t == {True}]
            if kept is not None and kept != found:
                return None
            kept = found
        if kept is not None:
            if not kept:
                return None
            keep[group.name] = kept
    return keep


class _OutOfTime(BaseException):
    """No Exception, so that nobody's handler swallows it."""


def _out_of_time(number: int, frame: object) -> None:
    raise _OutOfTime


def row(case: Case) -> str:
    generator = lg.load(case.module(), example_inputs=case.inputs[0])
    coupling = couple(generator)
    results = [ours(case, generator, coupling)]
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(PATIENCE)
    try:
        results.append(theirs(case, generator, coupling))
    except _OutOfTime:
        results.append(Outcome(None, f"not done after {PATIENCE} s"))
    finally:
        signal.alarm(0)
    cells = [c for r in results for c in ("-" if r.left is None else f"{r.left:.0%}", r.verdict)]
    return f"| {case.name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--checkpoint", type=Path, help="an SRGAN generator (or any known one)")
    parser.add_argument("--no-zoo", action="store_true")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        sys.exit("Torch-Pruning is not installed: pip install torch-pruning==1.6.1")
    print(
        "| network | leangan: left | | Torch-Pruning 1.6.1: left | |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for case in cases(options.checkpoint, not options.no_zoo):
        if not options.names or case.name in options.names:
            print(row(case), flush=True)


if __name__ == "__main__":
    main()
