"""The one object that travels: a trained network as a graph, with what is known of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.export import ExportedProgram

from leangan.errors import LeanganError, UnknownValue
from leangan.runner import runner

Kind = Literal[
    "image", "latent", "noise", "label", "mask", "mel", "waveform", "time", "feature", "score"
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Port:
    """One input or output of a generator."""

    name: str
    kind: Kind | None
    """What the tensor means; None when nobody has said so yet."""
    layout: str
    """One letter an axis: N batch, C channels, H height, W width, T time, other letters free.
    The same letter means the same size in every input."""
    shape: tuple[int | None, ...]
    """The size of each axis, None where it may vary."""
    typical: tuple[int, ...]
    """The sizes this generator is usually run at; what is measured when the user names no size."""
    range: tuple[float, float] | None = None
    """Smallest and largest meaningful value, None when unknown or unbounded (a latent)."""
    multiple: tuple[int, ...] = ()
    """Each axis must be a multiple of this; 1 everywhere when empty."""

    def __post_init__(self) -> None:
        lengths = {len(self.layout), len(self.shape), len(self.typical)}
        if len(lengths) != 1 or (self.multiple and len(self.multiple) not in lengths):
            raise LeanganError(
                f"Port {self.name!r}: layout {self.layout!r}, shape {self.shape}, typical "
                f"{self.typical} and multiple {self.multiple} differ in their number of axes."
            )
        if self.kind is not None and self.kind not in KINDS:
            raise LeanganError(
                f"Port {self.name!r}: {self.kind!r} is no kind; choose from {', '.join(KINDS)}."
            )

    def multiple_of(self, axis: int) -> int:
        """The number that the size of `axis` must be a multiple of."""
        return self.multiple[axis] if self.multiple else 1

    def known_range(self) -> tuple[float, float]:
        """The value range, or the error that asks for it by name."""
        if self.range is None:
            raise UnknownValue(
                f"The value range of {self.name!r} is not known. Say it with "
                f"--range {self.name}=-1,1 (or 0,1 or 0,255), or range= in Python."
            )
        return self.range


@dataclass(frozen=True)
class Signature:
    """The typed inputs and outputs of a generator."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries, the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """Read what `to_json` wrote (JSON's lists become tuples again)."""
        return cls(
            tuple(_port_from_json(p) for p in data["inputs"]),
            tuple(_port_from_json(p) for p in data["outputs"]),
        )


def _port_from_json(data: Mapping[str, Any]) -> Port:
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list | tuple) else v for k, v in data.items()
    }
    return Port(**values)


@dataclass(frozen=True)
class Step:
    """One thing that was done to a generator: enough to explain it and to do it again."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON values only."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What was seen when the step ran, JSON values only."""


@dataclass(frozen=True)
class Generator:
    """A trained network as an exported ATen program, with its signature, task and history.

    Never mutated: every technique takes one and returns another. `program` is functional
    (no in-place operators) and keeps batch and spatial sizes symbolic where the network allows.
    """

    program: ExportedProgram
    signature: Signature
    task: str | None = None
    """The name of its task in `leangan.tasks`, None when nobody has said so yet."""
    history: tuple[Step, ...] = ()
    name: str = "generator"

    def __call__(self, *inputs: Tensor) -> Any:
        """Run it in PyTorch, without gradients.

        Args:
            inputs: one float tensor per input of the signature, in its order and layout.

        Returns:
            What the original network returned: a tensor, or a tuple of tensors.
        """
        expected = self.signature.inputs
        if len(inputs) != len(expected):
            names = ", ".join(p.name for p in expected)
            raise LeanganError(
                f"{self.name} takes {len(expected)} inputs ({names}), {len(inputs)} were given."
            )
        with torch.no_grad():
            return runner(self.program)(*inputs)

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """As calling it, but always a tuple with one tensor per output of the signature."""
        result = self(*inputs)
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def module(self) -> torch.fx.GraphModule:
        """A live, trainable copy: training it changes its own weights, never this generator's."""
        return copy.deepcopy(runner(self.program))

    def then(
        self, program: ExportedProgram, step: Step, *, signature: Signature | None = None
    ) -> Generator:
        """The generator that `step` made out of this one."""
        return Generator(
            program, signature or self.signature, self.task, (*self.history, step), self.name
        )

    def example(
        self, sizes: Mapping[str, int] | None = None, *, seed: int = 0
    ) -> tuple[Tensor, ...]:
        """Random inputs that respect the signature.

        Args:
            sizes: wanted size per layout letter, for example `{"N": 2, "H": 64, "W": 72}`;
                the typical size where a letter is missing. Fixed axes stay as they are.
            seed: the same seed gives the same values.

        Returns:
            One float32 tensor per input: uniform over the value range where it is known,
            else standard normal.
        """
        return random_inputs(self.signature.inputs, sizes or {}, seed)

    def sized(self, sizes: Mapping[str, int]) -> Generator:
        """The same, with other typical sizes: what is made for it is smaller or larger then.

        Args:
            sizes: wanted size per layout letter of an input, for example `{"H": 64, "W": 64}`;
                fixed axes stay, and outputs follow in proportion.
        """
        usual = {
            letter: size
            for port in self.signature.inputs
            for letter, size, fixed in zip(port.layout, port.typical, port.shape, strict=True)
            if letter in sizes and fixed is None
        }

        def port(old: Port) -> Port:
            axes = zip(old.layout, old.typical, strict=True)
            typical = tuple(
                n * sizes[letter] // usual[letter] if letter in usual else n for letter, n in axes
            )
            return dataclasses.replace(old, typical=typical)

        inputs, outputs = self.signature.inputs, self.signature.outputs
        signature = Signature(tuple(map(port, inputs)), tuple(map(port, outputs)))
        return dataclasses.replace(self, signature=signature)

    @property
    def params(self) -> int:
        """The number of learned weights, also of those stored in 8 bits.

        Running statistics and quantization scales are not counted, weights that several layers
        share once.
        """
        codes = [b for b in self.program.buffers() if b.dtype == torch.int8]
        weights = {id(w): w.numel() for w in (*self.program.parameters(), *codes)}
        return sum(weights.values())

    @property
    def quantized(self) -> bool:
        """Whether some of it is computed in fewer bits: it can no longer be pruned or refitted."""
        calls = (n for n in self.program.graph.nodes if n.op == "call_function")
        return any("quantize" in str(node.target) for node in calls)

    @property
    def smallest_size(self) -> int:
        """The smallest height, width or length that was seen to run; 1 where nobody looked."""
        found = (step.measured.get("minimum") for step in self.history)
        return next((int(size) for size in found if size), 1)

    @property
    def bytes(self) -> int:
        """Bytes of all stored tensors: weights, statistics, scales."""
        tensors = {**self.program.state_dict, **self.program.constants}
        return sum(t.numel() * t.element_size() for t in tensors.values() if isinstance(t, Tensor))

    def save(self, path: Path | str) -> Path:
        """Write one file that `leangan.load` opens with no pickle and no source code."""
        from leangan.archive import save

        return save(self, path)


def random_inputs(
    ports: Sequence[Port], sizes: Mapping[str, int], seed: int = 0
) -> tuple[Tensor, ...]:
    """Uniform values over an input's range where that is known, else standard normal ones.

    Args:
        ports: the inputs.
        sizes: of free axes by their letter; the typical ones where left out.
        seed: same seed, same values.
    """
    rng = torch.Generator().manual_seed(seed)
    made = []
    for port in ports:
        shape = tuple(
            fixed if fixed is not None else sizes.get(letter, typical)
            for letter, fixed, typical in zip(port.layout, port.shape, port.typical, strict=True)
        )
        if port.range is None:
            made.append(torch.randn(shape, generator=rng))
        else:
            low, high = port.range
            made.append(torch.rand(shape, generator=rng) * (high - low) + low)
    return tuple(made)
