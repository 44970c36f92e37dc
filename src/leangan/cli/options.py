"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leangan.cli.output import parse_json
from leangan.errors import UsageError

if TYPE_CHECKING:
    from leangan.generator import Generator

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A checkpoint, Keras model, file.py:Class, generator.pt2 or zoo:NAME.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, show_default="all cores", help="CPU threads to measure on."),
]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same samples.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=3,
        show_default="12 to 48, by the model's cost",
        help="The most samples to take.",
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        show_default=False,
        help="Folder of typical inputs. Not needed for generators that start from noise.",
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", show_default="read off the model", help="What the model is for."),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="NAME=LO,HI",
        show_default=False,
        help="Value range of an input or output that the file does not tell. Repeatable.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="NAME=KIND",
        show_default=False,
        help="What an input or output is: image, latent, mel, waveform... Repeatable.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Allow this file to run code when it is opened (a pickle, a Lambda)."
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NxCxHxW",
        show_default=False,
        help="Shape of an input, needed for file.py:Class. Repeat it for each input, in order.",
    ),
]
Arguments = Annotated[
    str | None,
    typer.Option(
        "--args",
        metavar="JSON",
        show_default=False,
        help="Arguments of file.py:Class: a JSON object.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", show_default=False, help="The weights of file.py:Class."
    ),
]
Starts = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="NAME",
        show_default=False,
        help="Cut an ONNX graph: this value becomes an input. Repeatable.",
    ),
]
Ends = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="NAME",
        show_default=False,
        help="Cut an ONNX graph: this value becomes an output. Repeatable.",
    ),
]
Code = Annotated[
    Path | None,
    typer.Option(
        "--code",
        metavar="FILE.py",
        show_default=False,
        help="A file of yours that defines the layers of a Keras model. It is run.",
    ),
]
Part = Annotated[
    str, typer.Option("--part", help="Which network of a whole-GAN file: generator, discriminator.")
]


def page(text: str) -> Any:
    """An option that names a page to write."""
    return typer.Option("--report", metavar="FILE.html", show_default=False, help=text)


OutFile = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="OUT.pt2", show_default=False, help="What is written."),
]
On = Annotated[
    list[str] | None,
    typer.Option(
        "--on",
        metavar="NAMES",
        show_default="those of this machine",
        help="Runtimes to try, joined by commas or one by one: openvino, torch...; or all.",
    ),
]


@dataclass(frozen=True)
class Loading:
    """Everything that a user may have to say about a model file."""

    ranges: dict[str, tuple[float, float]] | None = None
    kinds: dict[str, str] | None = None
    trust: bool = False
    arguments: dict[str, Any] | None = None
    weights: Path | None = None
    code: Path | None = None
    part: str = "generator"
    task: str | None = None
    example_inputs: tuple[tuple[int, ...], ...] | None = None
    """Shapes, batch first."""
    starts: tuple[str, ...] | None = None
    ends: tuple[str, ...] | None = None

    @classmethod
    def read(
        cls,
        *,
        ranges: list[str] | None = None,
        kinds: list[str] | None = None,
        trust: bool = False,
        arguments: str | None = None,
        weights: Path | None = None,
        code: Path | None = None,
        part: str = "generator",
        task: str | None = None,
        sizes: list[str] | None = None,
        starts: list[str] | None = None,
        ends: list[str] | None = None,
    ) -> Loading:
        """From the options' texts.

        Raises:
            UsageError: one of them has not the form it needs.
        """
        if weights is not None and not weights.exists():
            raise UsageError(f"There is no weights file {weights}.")
        return cls(
            ranges=dict(map(_range, ranges or ())) or None,
            kinds=dict(map(_kind, kinds or ())) or None,
            trust=trust,
            arguments=None if arguments is None else _object(arguments),
            weights=weights,
            code=code,
            part=part,
            task=task,
            example_inputs=tuple(map(_shape, sizes or ())) or None,
            starts=tuple(starts or ()) or None,
            ends=tuple(ends or ()) or None,
        )

    def load(self, model: str) -> Generator:
        """Open `model` with these options."""
        from leangan import sources

        return sources.load(model, **self.keywords())

    def keywords(self) -> dict[str, Any]:
        """As keyword arguments of load and compress; what was not said is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _loading(
    range_: Ranges = None,
    kind: Kinds = None,
    size: Sizes = None,
    task: TaskName = None,
    trust: Trust = False,
    args: Arguments = None,
    weights: Weights = None,
    code: Code = None,
    part: Part = "generator",
    from_: Starts = None,
    to: Ends = None,
) -> Loading:
    return Loading.read(
        ranges=range_,
        kinds=kind,
        trust=trust,
        arguments=args,
        weights=weights,
        code=code,
        part=part,
        task=task,
        sizes=size,
        starts=from_,
        ends=to,
    )


def with_group(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives commands a group of options, and what they come to as one argument.

    Args:
        name: of that argument.
        make: takes the options, which are read off its signature, and returns it. It is not
            asked for those that the command has itself, under the same name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        ours = {
            option: parameter
            for option, parameter in inspect.signature(make, eval_str=True).parameters.items()
            if option not in own
        }

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            made = make(**{option: values.pop(option) for option in ours})
            command(**values, **{name: made})

        shown = [p for option, p in own.items() if option != name]
        at = list(own).index(name)
        every = [*shown[:at], *ours.values(), *shown[at:]]
        # Typer reads the options off the signature, and calls by name.
        wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
        )
        return wrapped

    return decorate


with_loading = with_group("loading", _loading)
"""Give a command the options that say of a model file what it cannot tell, as `loading`."""


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, sign, numbers = text.partition("=")
    try:
        low, high = map(float, numbers.split(","))
        if not (name and sign and low < high):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--range {text!r} is not NAME=LO,HI with LO below HI, for example --range x=-1,1."
        ) from None
    return name, (low, high)


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text, "--args")
    if not isinstance(value, dict):
        raise UsageError(f'--args {text!r} is no JSON object; write for example {{"depth": 9}}.')
    return value


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
        if min(shape) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--size {text!r} is no shape; write all axes, batch first, as in 1x3x256x256."
        ) from None
    return shape


def _kind(text: str) -> tuple[str, str]:
    name, _, kind = text.partition("=")
    if not name or not kind:
        raise UsageError(f"--kind {text!r} is not NAME=KIND, for example --kind x=image.")
    return name, kind


def runtime_names(on: list[str] | None) -> tuple[str, ...] | None:
    """The runtimes of `--on`: None for those of this machine's CPU.

    "all" are all that run here and can be timed, no simulators.

    Raises:
        UsageError: one of them is not known.
    """
    if not on:
        return None
    from leangan import runtimes

    known = [runtime.name for runtime in runtimes.known()]
    wanted = tuple(name.strip() for name in ",".join(on).split(",") if name.strip())
    if wanted == ("all",):
        return tuple(runtimes.timed_here())
    for name in wanted:
        if name not in known:
            raise UsageError(f"There is no runtime {name!r}{near(name, known)}")
    if not wanted:
        raise UsageError(f"--on {','.join(on)!r} names no runtime; choose from {', '.join(known)}.")
    return wanted


def check_file(path: Path, suffix: str, option: str) -> None:
    """Refuse at once what could not be written after minutes of work."""
    if path.suffix != suffix:
        raise UsageError(f"{option} {path}: the name must end in {suffix}.")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it.")
    check_folder(path.parent)


def check_folder(out: Path) -> None:
    """Refuse at once what could not be written into after minutes of work.

    Raises:
        UsageError: `out` is a file, or lies where nothing may be written.
    """
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UsageError(f"{out if out.exists() else existing} is a file; -o needs a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"Nothing may be written in {existing}; choose another folder with -o.")


def near(name: str, known: Iterable[str]) -> str:
    """How an error goes on after an unknown name: a suggestion, or all that there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(known)}."


def floor_text(keep: list[str] | None) -> str | None:
    """`--keep` given once or several times as one floor, checked.

    Raises:
        UsageError: a part is not metric>=number.
    """
    from leangan.report.words import conditions

    if not keep:
        return None
    floor = ",".join(keep)
    if not conditions(floor):
        raise UsageError('--keep is empty; write for example --keep "psnr>=40".')
    return floor
