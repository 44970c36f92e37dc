"""The steps that lead to a delivered model, in a small file that people can read and edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from leangan.errors import UsageError
from leangan.files import atomic
from leangan.graph.doors import DOOR_REWRITES
from leangan.search.prune_plan import PrunePlan
from leangan.search.students import check_student
from leangan.techniques.scheme import FLOAT, parse_word
from leangan.training.settings import TrainSettings

SCHEMA = 1


@dataclass(frozen=True)
class Recipe:
    """What `leangan compress --recipe` does again, without searching."""

    runtime: str
    precision: str
    rewrites: tuple[str, ...] = ()
    """Names of `graph.doors.DOOR_REWRITES`, in order."""
    quantize: bool = False
    layers: Mapping[str, str] = field(default_factory=dict)
    """Precisions of the layers that are not w8a8 when `quantize` is set, by name: "float", or
    words as `scheme.parse_word` reads them."""
    seed: int = 0
    limit: int | None = None
    """The most samples to take; None for what the network's cost allows."""
    prune: PrunePlan | None = None
    """What is done before rewriting: what is quantized cannot be pruned any more."""
    student: str | None = None
    """A lighter network that takes the generator's place before all that, see
    `students.make_student`: "tucker:0.5", "narrow:0.25"."""
    codebook: int | None = None
    """Bits of the codebooks that weights are stored in, instead of `quantize`; 2 to 8."""
    finetune: Mapping[str, Any] | None = None
    """Settings of a `TrainSettings`: the output is trained back after the student is made, after
    pruning, and again after quantizing or coding."""


def write(recipe: Recipe, path: Path) -> Path:
    """Write YAML, atomically."""
    facts = {
        "schema": SCHEMA,
        **{
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(recipe).items()
            if v is not None or k not in ("student", "codebook", "finetune")
        },
    }
    facts["prune"] = recipe.prune.to_json() if recipe.prune else None
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
    return path


def read(path: Path) -> Recipe:
    """Read what `write` wrote, or a person edited.

    Raises:
        UsageError: it is no recipe; the line or the key that is wrong is named.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as a recipe: {error}") from error
    if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
        raise UsageError(f"{path} is no recipe of schema {SCHEMA}; compress writes recipe.yaml.")
    # Earlier versions listed the layers that stay float, and had no other mixes.
    kept = _names("keep_float", facts.pop("keep_float", []), path)
    known = {f.name: f.type for f in fields(Recipe)}
    for key in facts:
        if key not in known:
            raise UsageError(f"{path}: a recipe has no {key!r}; it has {', '.join(known)}.")
    for key in ("runtime", "precision"):
        if not isinstance(facts.get(key), str):
            raise UsageError(f"{path}: {key!r} must say the {key}, as text.")
    values = {k: _checked(k, v, path) for k, v in facts.items()}
    if values.get("codebook") and values.get("quantize"):
        raise UsageError(f"{path}: codebooks have no even steps: 'quantize' must be false.")
    if kept:
        values["layers"] = {**dict.fromkeys(kept, FLOAT), **values.get("layers", {})}
    return Recipe(**values)


def _checked(key: str, value: Any, path: Path) -> Any:
    if key == "prune" and value is not None:
        if not isinstance(value, dict):
            raise UsageError(f"{path}: 'prune' must hold settings, for example macs: 0.7.")
        try:
            return PrunePlan.from_json(value)
        except UsageError as error:
            raise UsageError(f"{path}: 'prune': {error}") from error
    if key == "student" and value is not None:
        try:
            check_student(str(value))
        except UsageError as error:
            raise UsageError(f"{path}: 'student': {error}") from error
    if key == "finetune" and value is not None:
        return _training(value, path)
    if key == "codebook" and value is not None:
        if isinstance(value, bool) or value not in range(2, 9):
            raise UsageError(f"{path}: 'codebook' is a number of bits, 2 to 8; {value!r} is none.")
        return value
    if key == "layers":
        return _precisions(value, path)
    if key == "rewrites":
        value = _names(key, value, path)
        unknown = [v for v in value if v not in DOOR_REWRITES]
        if unknown:
            names = ", ".join(DOOR_REWRITES)
            raise UsageError(f"{path}: there is no rewrite {unknown[0]!r}; there are {names}.")
        return value
    if key == "quantize" and not isinstance(value, bool):
        raise UsageError(f"{path}: 'quantize' must be true or false.")
    if key in ("seed", "limit"):
        left_out = key == "limit" and value is None
        if isinstance(value, bool) or not (left_out or isinstance(value, int)):
            raise UsageError(f"{path}: {key!r} must be a whole number.")
    return value


def _training(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: 'finetune' must hold settings, for example steps: 1000.")
    # YAML takes 1e-4 for text.
    numbers = {k: _number(v) for k, v in value.items()}
    try:
        TrainSettings(**numbers)
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: 'finetune': {error}") from error
    return numbers


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _names(key: str, value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UsageError(f"{path}: {key!r} must be a list of names.")
    return tuple(value)


def _precisions(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: 'layers' must say precisions by name, for example head: float.")
    for name, word in value.items():
        if word != FLOAT:
            try:
                parse_word(str(word))
            except UsageError as error:
                raise UsageError(f"{path}: 'layers': {name}: {error}") from error
    return {str(name): str(word) for name, word in value.items()}
