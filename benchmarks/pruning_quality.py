"""Prune real generators to one budget by every criterion, without training: what quality is left?

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_quality.py MODEL DATA MACS [MODEL DATA MACS ...]
        [--by redundancy l1 random ...] [--samples 12] [--held-out 8] [--threads 2]

For example `zoo:cyclegan-vintage zoo:photos 0.69`: a share of the multiply-accumulates may be left.
PSNR is that of the pruned network against the original's own output, on pictures that nothing was
calibrated on; mean and worst. Torch-Pruning is run on the live module (`BasePruner`, in-place
operators off, the last layer protected) at the ratio that leaves the same MACs. Where it cannot
prune before a PixelShuffle, those layers are protected too.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

import leangan as lg
from leangan import tasks, zoo
from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.cost import macs as count_macs
from leangan.measure.image import psnr
from leangan.search.data import data_path
from leangan.sources.checkpoint import load_checkpoint
from leangan.sources.ncnn import read_ncnn
from leangan.sources.ncnn_module import NcnnModule
from leangan.techniques.importance import CRITERIA
from leangan.techniques.prune_channels import prune_channels

Inputs = tuple[Tensor, ...]
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_STEPS = 8
"""Of the search for Torch-Pruning's ratio."""


def live_module(model: str) -> nn.Module:
    """The network as a module of layers, for Torch-Pruning."""
    path = zoo.files(model.removeprefix("zoo:"))[0] if model.startswith("zoo:") else Path(model)
    if path.suffix in (".param", ".bin"):
        param = path.with_suffix(".param")
        module: nn.Module = NcnnModule(read_ncnn(param, path.with_suffix(".bin")))
    else:
        module = load_checkpoint(path)[0]
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return module.eval()


def quality(
    generator: Generator, pruned: Callable[..., object], held_out: Sequence[Inputs]
) -> tuple[float, float]:
    """Mean and worst PSNR of the first output."""
    low, high = generator.signature.outputs[0].known_range()
    found = []
    for inputs in held_out:
        with torch.no_grad():
            result = pruned(*inputs)
        first = result[0] if isinstance(result, tuple | list) else result
        assert isinstance(first, Tensor)
        wanted = generator.outputs(*inputs)[0]
        unit = [(x.clamp(low, high) - low) / (high - low) for x in (wanted, first)]
        found.append(psnr(unit[0], unit[1]))
    return sum(found) / len(found), min(found)


def last_and_shuffled(module: nn.Module, example: Inputs) -> tuple[nn.Module, list[nn.Module]]:
    """The layer that runs last, and those whose output a PixelShuffle reads."""
    order: list[nn.Module] = []
    made: dict[int, nn.Module] = {}
    shuffled: list[nn.Module] = []
    alive: list[Tensor] = []  # so that no tensor takes the place, and the id, of another

    def see(part: nn.Module, inputs: Inputs, output: Tensor) -> None:
        alive.extend((*inputs, output))
        if isinstance(part, nn.PixelShuffle) and id(inputs[0]) in made:
            shuffled.append(made[id(inputs[0])])
        elif isinstance(part, _WEIGHTED):
            order.append(part)
            made[id(output)] = part

    kinds = (*_WEIGHTED, nn.PixelShuffle)
    hooks = [p.register_forward_hook(see) for p in module.modules() if isinstance(p, kinds)]
    with torch.no_grad():
        module(*example)
    for hook in hooks:
        hook.remove()
    return order[-1], shuffled


def torch_pruning(
    module: nn.Module, example: Inputs, left: float, importance: object
) -> tuple[nn.Module, float, str]:
    """Their pruned network, the share of MACs left, and what had to be left out."""
    import torch_pruning as tp

    last, shuffled = last_and_shuffled(module, example)
    whole = tp.utils.count_ops_and_params(module, example)[0]

    def pruned(ratio: float, protect: Sequence[nn.Module]) -> tuple[nn.Module, float]:
        places = {part: name for name, part in module.named_modules()}
        torch.manual_seed(0)
        cut = copy.deepcopy(module)
        ignored = [cut.get_submodule(places[part]) for part in protect]
        tp.pruner.BasePruner(
            cut, example, importance=importance, pruning_ratio=ratio, ignored_layers=ignored
        ).step()
        with torch.no_grad():
            cut(*example)
        return cut, tp.utils.count_ops_and_params(cut, example)[0] / whole

    protect, note = [last], ""
    try:
        pruned(0.3, protect)
    except Exception:  # whatever a third party raises
        protect, note = [last, *shuffled], ", none before a PixelShuffle"
    low, high = 0.0, 0.95
    for _ in range(_STEPS):
        middle = (low + high) / 2
        _, share = pruned(middle, protect)
        low, high = (middle, high) if share > left else (low, middle)
    return *pruned((low + high) / 2, protect), note


def table(
    model: str, data: str, left: float, criteria: Sequence[str], samples: int, judged: int
) -> None:
    """Print one network's rows."""
    generator = lg.load(model)
    found = tasks.infer(generator).data(generator, data_path(data))
    calibration = [s.inputs for s in found.calibration[:samples]]
    held_out = [s.inputs for s in found.held_out[:judged]]
    print(
        f"\n{generator.name}, {left:g} of the MACs asked for, {len(calibration)} inputs to "
        f"calibrate on, {len(held_out)} held out\n"
    )
    print("| how | refitted | MACs left | PSNR, dB | worst | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")

    def row(how: str, refitted: str, share: float, pruned: Callable[..., object], t: float) -> None:
        mean, worst = quality(generator, pruned, held_out)
        took = time.perf_counter() - t
        print(
            f"| {how} | {refitted} | {share:.2f} | {mean:.1f} | {worst:.1f} | {took:.0f} |",
            flush=True,
        )

    whole = count_macs(generator)
    for name in criteria:
        for refit in (True, False):
            start = time.perf_counter()
            try:
                pruned = prune_channels(
                    generator, macs=left, by=name, data=calibration, reconstruct=refit
                )
            except LeanganError as error:
                print(f"| {name} | | | {error} | | |", flush=True)
                break
            row(name, "yes" if refit else "no", count_macs(pruned) / whole, pruned, start)
    import torch_pruning as tp

    module = live_module(model)
    for label, importance in (
        ("group L1", tp.importance.GroupMagnitudeImportance(p=1)),
        ("random", tp.importance.RandomImportance()),
    ):
        start = time.perf_counter()
        try:
            cut, share, note = torch_pruning(module, held_out[0], left, importance)
        except Exception as error:  # whatever a third party raises is a result
            print(f"| Torch-Pruning, {label} | | | {type(error).__name__} | | |", flush=True)
            continue
        row(f"Torch-Pruning {version('torch-pruning')}, {label}{note}", "no", share, cut, start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL DATA MACS")
    parser.add_argument("--by", nargs="+", choices=list(CRITERIA), default=list(CRITERIA))
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if len(options.models) % 3:
        parser.error("give MODEL DATA MACS, three words for each model")
    torch.set_num_threads(options.threads)
    for i in range(0, len(options.models), 3):
        model, data, left = options.models[i : i + 3]
        table(model, data, float(left), options.by, options.samples, options.held_out)


if __name__ == "__main__":
    main()
