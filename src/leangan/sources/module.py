"""A live nn.Module as a Generator: captured, its free sizes found by trial, proved equal."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Port, Signature, Step, random_inputs
from leangan.graph.capture import capture, input_shapes, output_shapes
from leangan.sources.agreement import input_port, prove, run
from leangan.sources.noise import drawn_once
from leangan.sources.ports import (
    check_stated,
    guess_kind,
    input_names,
    layout_of,
    output_names,
    output_ranges,
    override,
)
from leangan.sources.probe import SPATIAL, probe, shapes_at

_LEAST = 32  # smallest spatial size of a trace: small ones are taken for broadcasts


def from_module(
    module: nn.Module,
    example_inputs: Sequence[Tensor] | None = None,
    *,
    name: str = "generator",
    task: str | None = None,
    inputs: Sequence[Port] | None = None,
    outputs: Sequence[Port] | None = None,
    kinds: Mapping[str, str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Generator:
    """Capture `module` with its batch and spatial axes free wherever it allows.

    Args:
        module: the network; its mode is restored, its weights are not touched.
        example_inputs: float tensors of sizes that it runs at; not needed when `inputs` say
            the typical sizes. Their sizes become the typical ones.
        name: of the generator.
        task: of the generator, None when unknown.
        inputs: what is known of the inputs (an architecture knows); made up from the names of
            forward's parameters and the examples otherwise.
        outputs: what is known of the outputs.
        kinds: kind per port name, wins over what is known.
        ranges: value range per port name, wins over what is known.

    Raises:
        UsageError: a statement about a port that does not exist.
        LeanganError: the module does not run on the example, cannot be exported, or its graph
            does not compute the same at another size.
    """
    module = _plain(module)
    kinds, ranges = dict(kinds or {}), dict(ranges or {})
    with _evaluating(module), contextlib.ExitStack() as stack:
        wanted = _wanted_inputs(module, example_inputs, inputs)
        chance = torch.get_rng_state()
        wanted, examples, results = _first_run(module, wanted, example_inputs)
        random = not torch.equal(chance, torch.get_rng_state())
        if random:
            stack.enter_context(drawn_once(module))
            results = run(module, examples)
        names = [p.name for p in outputs] if outputs else output_names(len(results))
        if len(names) != len(results):
            raise LeanganError(
                f"{name} returns {len(results)} outputs, {len(names)} are described."
            )
        check_stated([*(p.name for p in wanted), *names], kinds, ranges)
        program, fixed = _capture(module, wanted, examples)
        shapes = input_shapes(program)
        known = [dataclasses.replace(p, shape=s) for p, s in zip(wanted, shapes, strict=True)]
        if not _fit(examples, shapes):  # sizes that had to be fixed are the typical ones
            examples = random_inputs(known, {})
            results = run(module, examples)
        layouts = [p.layout for p in wanted]
        usual = max((p.typical[a] for p in wanted for a in _spatial(p)), default=1)
        # Feature maps have no pixels that must lie over those of the input.
        exact = [p.kind not in ("feature", "score") for p in outputs or ()] or [True] * len(names)
        found = probe(program, layouts, shapes, usual, exact)
        known = list(override(known, kinds, ranges))
        first = examples, results
        sizes, trials, difference = prove(module, program, known, found, first, name)
        ports = tuple(input_port(p, sizes) for p in known)
    made = _output_ports(program, ports, names, outputs)
    signature = Signature(ports, override(made, kinds, ranges))
    measured: dict[str, Any] = {
        "largest_difference": difference,
        "checked_at": [[list(x.shape) for x in inputs] for inputs, _ in trials],
        "fixed_axes": fixed,
    }
    if random:
        measured["drawn_once"] = True
    if sizes is not None:
        measured |= {"multiple": sizes.multiple, "minimum": sizes.minimum}
    return Generator(program, signature, task, (Step("load", {"name": name}, measured),), name)


def _plain(module: nn.Module) -> nn.Module:
    """The module in float32 on the CPU, a copy when it is not there already."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(
        t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64, torch.int32, torch.bool)
        for t in tensors
    ):
        return module
    try:
        return copy.deepcopy(module).to("cpu", torch.float32)
    except Exception as error:
        raise LeanganError(
            f"{type(module).__name__} cannot be copied to float32 on the CPU: {error}. "
            "Call .float().cpu() on it first."
        ) from error


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the block; every submodule gets its own mode back.

    SPAN's blocks put the sum of their kernels into `eval_conv` at every run (Wan et al. 2024),
    which no export can follow: here they do so once.
    """
    modes = [(m, m.training) for m in module.modules()]
    merging: list[Any] = [
        m for m, _ in modes if hasattr(m, "update_params") and hasattr(m, "eval_conv")
    ]
    try:
        for m, _ in modes:
            m.training = False
        for m in merging:
            m.update_params()
            m.update_params = _nothing
        yield
    finally:
        for m, training in modes:
            m.training = training
        for m in merging:
            vars(m).pop("update_params", None)


def _nothing() -> None:
    """Kernels are merged already."""


def _wanted_inputs(
    module: nn.Module, examples: Sequence[Tensor] | None, ports: Sequence[Port] | None
) -> tuple[Port, ...]:
    """The inputs as we would like them: every axis that may be free is None."""
    if examples is not None:
        bad = [x for x in examples if not isinstance(x, Tensor) or not x.is_floating_point()]
        if bad or not examples:
            raise UsageError("The example inputs must be float tensors, one for each input.")
    if ports:
        if examples is None:
            return tuple(ports)
        given = [tuple(x.shape) for x in examples]
        for port, shape in zip(ports, given, strict=False):
            fits = len(shape) == len(port.shape) and all(
                a is None or a == b for a, b in zip(port.shape, shape, strict=True)
            )
            if not fits:
                raise UsageError(
                    f"The example of {port.name!r} has shape {shape}, not {port.shape}."
                )
        if len(ports) != len(given):
            raise UsageError(f"{len(given)} example inputs were given, {len(ports)} are needed.")
        return tuple(dataclasses.replace(p, typical=s) for p, s in zip(ports, given, strict=True))
    if examples is None:
        raise UsageError(
            f"{type(module).__name__} needs example inputs: say the shape of each, "
            "for example --size 1x3x256x256, or example_inputs= in Python."
        )
    made: list[Port] = []
    sizes: dict[str, int] = {}
    for port_name, example in zip(input_names(module, len(examples)), examples, strict=True):
        layout = ""
        for letter, size in zip(layout_of(example.dim()), example.shape, strict=True):
            # The same letter means the same size: another size gets a letter of its own.
            other = letter in SPATIAL and sizes.setdefault(letter, size) != size
            layout += letter.lower() if other else letter
        free = tuple(
            None if letter == "N" or (letter in SPATIAL and size > 1) else size
            for letter, size in zip(layout, example.shape, strict=True)
        )
        kind = guess_kind(layout, free)
        made.append(Port(port_name, kind, layout, free, tuple(example.shape)))
    return tuple(made)


def _first_run(
    module: nn.Module, ports: tuple[Port, ...], given: Sequence[Tensor] | None
) -> tuple[tuple[Port, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The ports, inputs that the module runs on, and what it makes of them.

    Without examples of the user's: two small random samples, else two of the usual size, else one,
    and then the batch is fixed at that.

    Raises:
        LeanganError: it runs on none of these; what is told is about the usual size.
    """
    if given is not None:
        examples = tuple(x.detach().to("cpu", torch.float32) for x in given)
        return ports, examples, run(module, examples)
    small = _trace_sizes(ports, None)
    usual = small | {
        letter: size
        for port in ports
        for letter, size in zip(port.layout, port.typical, strict=True)
        if letter != "N"
    }
    for sizes in (small, usual):
        examples = random_inputs(ports, sizes)
        with contextlib.suppress(LeanganError):
            return ports, examples, run(module, examples)
    alone = tuple(map(_one_at_a_time, ports))
    examples = random_inputs(alone, usual)
    return alone, examples, run(module, examples)


def _one_at_a_time(port: Port) -> Port:
    """The port with a batch of 1."""
    sizes = zip(port.layout, port.shape, strict=True)
    return dataclasses.replace(port, shape=tuple(1 if x == "N" else size for x, size in sizes))


def _trace_sizes(ports: Sequence[Port], examples: Sequence[Tensor] | None) -> dict[str, int]:
    """Two or more multiples of a size that is known to run, another for each free axis.

    Two at least, since an innermost map of size 1 would be taken for a broadcast.
    """
    sizes: dict[str, int] = {}
    for i, port in enumerate(ports):
        for axis, letter in enumerate(port.layout):
            if port.shape[axis] is not None or letter in sizes:
                continue
            known = port.multiple_of(axis)
            if examples is not None and known == 1:
                known = int(examples[i].shape[axis])
            if letter == "N":
                known, size = 1, 2
            else:
                size = max(2, -(-_LEAST // known)) * known
            while size in sizes.values():
                size += known
            sizes[letter] = size
    return sizes


def _capture(
    module: nn.Module, ports: Sequence[Port], examples: Sequence[Tensor]
) -> tuple[ExportedProgram, list[str]]:
    """Export with as many free axes as the module allows; say which ones had to be fixed."""
    shapes = [list(p.shape) for p in ports]
    wanted = [list(p.shape) for p in ports]
    error: LeanganError | None = None
    for _ in range(6):
        trace = [dataclasses.replace(p, shape=tuple(s)) for p, s in zip(ports, shapes, strict=True)]
        free = [[a for a, size in enumerate(s) if size is None] for s in shapes]
        try:
            program = capture(module, random_inputs(trace, _trace_sizes(trace, examples)), free)
            found = input_shapes(program)
        except LeanganError as failure:
            error = error or failure
            # First the picture's sizes are given up, then the batch, then hope; but the batch
            # where it is what the code cannot do.
            axes = [(i, a) for i, some in enumerate(free) for a in some]
            batch = [(i, a) for i, a in axes if ports[i].layout[a] == "N"]
            if batch and len(batch) < len(axes):
                spatial = [axis for axis in axes if axis not in batch]
                axes = spatial if _takes_batches(module, trace) else batch
            if not axes:
                raise error from failure
        else:
            axes = [(i, a) for i, some in enumerate(free) for a in some if found[i][a] is not None]
            if not axes:
                fixed = [
                    f"{p.name}.{letter}"
                    for p, want, got in zip(ports, wanted, shapes, strict=True)
                    for letter, a, b in zip(p.layout, want, got, strict=True)
                    if a != b
                ]
                return program, fixed
        for i, a in axes:  # the code needs this size as a number: the usual one
            shapes[i][a] = ports[i].typical[a]
    raise error or LeanganError(f"{type(module).__name__} cannot be captured with stable sizes.")


def _takes_batches(module: nn.Module, ports: Sequence[Port]) -> bool:
    """Whether the module runs on two samples of the usual sizes."""
    try:
        run(module, random_inputs(ports, {"N": 2}))
    except LeanganError:
        return False
    return True


def _fit(examples: Sequence[Tensor], shapes: Sequence[tuple[int | None, ...]]) -> bool:
    """Whether the program runs at the sizes of these inputs."""
    return all(
        size in (None, n)
        for x, shape in zip(examples, shapes, strict=True)
        for n, size in zip(x.shape, shape, strict=True)
    )


def _spatial(port: Port) -> list[int]:
    return [axis for axis, letter in enumerate(port.layout) if letter in SPATIAL]


def _output_ports(
    program: ExportedProgram,
    inputs: Sequence[Port],
    names: Sequence[str],
    known: Sequence[Port] | None,
) -> tuple[Port, ...]:
    shapes = output_shapes(program)
    typical = shapes_at(program, [p.typical for p in inputs])
    bounds = output_ranges(program)
    made = []
    for i, name in enumerate(names):
        if known:
            port = dataclasses.replace(
                known[i],
                shape=shapes[i],
                typical=typical[i],
                range=known[i].range or bounds[i],
                multiple=(),
            )
        else:
            layout = layout_of(len(shapes[i]))
            kind = guess_kind(layout, shapes[i])
            port = Port(name, kind, layout, shapes[i], typical[i], bounds[i])
        made.append(port)
    return tuple(made)
