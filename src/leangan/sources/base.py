"""What a way in looks like: it says what it reads, and makes a Generator of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator


@dataclass(frozen=True)
class Request:
    """What the user said beside the source itself."""

    weights: Path | None = None
    """A file of weights for a class or module without them."""
    example_inputs: tuple[Tensor, ...] | None = None
    """One float tensor for each input, of sizes that the network runs at."""
    part: str = "generator"
    """Which network of a whole GAN is wanted."""
    trust: bool = False
    """Whether code inside of the file may run."""
    task: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    """What a port means, by its name."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Value range by port name."""
    code: Path | None = None
    """The user's Python file that defines the layers of a model by name."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments of a class or an architecture."""
    starts: Sequence[str] = ()
    """Names of values inside of an ONNX graph that become the inputs."""
    ends: Sequence[str] = ()
    """Likewise of those that become the outputs."""

    def only_generator(self, what: str) -> None:
        """Refuse a wish for another part.

        Raises:
            UsageError: `what` holds one network only.
        """
        if self.part != "generator":
            raise UsageError(f"{what} holds one network and no {self.part} beside it.")


class Source(Protocol):
    """One way in; a module of this room with these two functions, or an outsider's object.

    Outsiders register theirs as an entry point of the group `leangan.sources`; these are asked
    after ours.
    """

    def accepts(self, source: Any) -> bool:
        """Whether this is the way in for `source`, judged quickly."""

    def load(self, source: Any, request: Request) -> Generator:
        """Make the generator.

        Raises:
            LeanganError: it cannot be read; the sentence says why and what to do.
        """
