"""Students to distil into: made of the teacher's own graph, of a small design, or from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from leangan import architectures, sources
from leangan.architectures.base import Part
from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Signature
from leangan.tasks.base import Sample
from leangan.techniques.lighten import LIGHTER, WHOLE
from leangan.techniques.prune_channels import prune_channels

_NARROW = "narrow"


def make_student(
    spec: Any,
    teacher: Generator,
    samples: Sequence[Sample],
    seed: int,
    progress: Callable[..., None],
) -> Generator:
    """A student for `teacher`, with the teacher's ports.

    Args:
        spec: "narrow:0.25", the teacher with the most important channels, at that share of its
            multiply-accumulates; "shallow:0.5" and others of `techniques.lighten`, several joined
            by "+"; a family's name with arguments, such as
            "shuffle-resnet:width=48,blocks=7"; a Generator, a live module, or whatever
            `leangan.load` takes. Code of one's own gets the teacher's ports.
        teacher: float.
        samples: what channels are judged on.
        seed: of random weights.
        progress: called as progress(message, done, total).

    Raises:
        UsageError: the words name no student, or one that takes other inputs.
        LeanganError: it cannot be loaded or made.
    """
    if isinstance(spec, Generator):
        return spec
    if isinstance(spec, nn.Module) or ".py:" in str(spec):  # such code knows nothing of its ports
        made = sources.load(spec, example_inputs=teacher.example(), task=teacher.task)
        return _with_ports(made, teacher, made.name)
    exists = Path(str(spec)).exists()
    if "+" in str(spec) and not exists:
        for part in str(spec).split("+"):
            teacher = make_student(part, teacher, samples, seed, progress)
        return teacher
    name, _, rest = str(spec).partition(":")
    inputs = [s.inputs for s in samples]
    if name == _NARROW:
        progress("Choosing channels for the student")
        return prune_channels(teacher, macs=_share(name, rest), data=inputs, seed=seed)
    if name in LIGHTER:
        progress(f"Making the student {name}")
        return LIGHTER[name](teacher, _share(name, rest), inputs)
    if name in WHOLE:
        progress(f"Making the student {name}")
        return WHOLE[name](teacher, inputs)
    module = new_network(str(spec), "generator", seed)
    if module is None:
        try:
            return sources.load(str(spec))
        except LeanganError as error:
            families = architectures.part_architectures("generator")
            raise UsageError(
                f"{spec!r} is no student: write {_NARROW}:0.25, "
                f"{', '.join(f'{n}:0.5' for n in LIGHTER)}, {', '.join(WHOLE)}, a file, or one of "
                f"{', '.join(a.name for a in families)}. {error}"
            ) from error
    made = sources.load(module, example_inputs=teacher.example(), task=teacher.task)
    return _with_ports(made, teacher, name)


def check_student(spec: str) -> None:
    """Refuse what is made of neither the teacher's graph nor a known family.

    Raises:
        UsageError: a part of it is; files, and code, are left to those who name them themselves.
    """
    families = [a.name for a in architectures.part_architectures("generator")]
    for part in spec.split("+"):
        if part.partition(":")[0] not in (_NARROW, *LIGHTER, *WHOLE, *families):
            names = ", ".join((_NARROW, *LIGHTER, *WHOLE, *families))
            raise UsageError(f"{part!r} is no student; there are {names}.")


def new_network(spec: str, part: Part, seed: int) -> nn.Module | None:
    """A network of a known family, with random weights.

    Args:
        spec: the family's name, with arguments where wanted: "srvgg:width=32".
        part: that it plays in a GAN.
        seed: of the weights.

    Returns:
        None where no such family plays this part, or a file of that name exists.

    Raises:
        UsageError: it cannot be built so.
    """
    name, _, rest = spec.partition(":")
    families = {a.name: a for a in architectures.part_architectures(part)}
    if name not in families or Path(spec).exists():
        return None
    torch.manual_seed(seed)
    try:
        return families[name].build(**read_arguments(rest)).eval()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{spec!r} cannot be built: {error}") from error


def _with_ports(made: Generator, teacher: Generator, name: str) -> Generator:
    """The student behind its teacher's ports, with its own needs of sizes."""

    def ported(own: Any, theirs: Any) -> Any:
        return dataclasses.replace(theirs, shape=own.shape, multiple=own.multiple)

    ours, theirs = made.signature, teacher.signature
    if len(ours.inputs) != len(theirs.inputs):
        raise UsageError(
            f"{name} takes {len(ours.inputs)} inputs, the teacher {len(theirs.inputs)}."
        )
    outputs = zip(ours.outputs, theirs.outputs, strict=False)
    signature = Signature(
        tuple(map(ported, ours.inputs, theirs.inputs)), tuple(ported(a, b) for a, b in outputs)
    )
    sample = teacher.example()
    wanted, found = (g.outputs(*sample)[0].shape for g in (teacher, made))
    if wanted != found:
        raise UsageError(f"{name} puts out {tuple(found)} where the teacher does {tuple(wanted)}.")
    return dataclasses.replace(made, signature=signature, name=name)


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"{name}:{text} needs a share between 0 and 1: {name}:0.25, say.")
    return share


def read_arguments(text: str) -> dict[str, Any]:
    """Of "width=48,gated=[1,3]"; commas within brackets do not part."""
    if not text:
        return {}
    try:
        found = yaml.safe_load("{" + text.replace("=", ": ") + "}")
    except yaml.YAMLError as error:
        raise UsageError(f"{text!r} are no arguments: write width=48,blocks=7.") from error
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
