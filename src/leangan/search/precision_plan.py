"""The precision of each layer as a small file that people read, edit and apply again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from leangan.errors import UsageError
from leangan.files import atomic
from leangan.generator import Generator
from leangan.techniques.calibrate import calibrate_each
from leangan.techniques.layer_code import Calibration
from leangan.techniques.placement import quantizable
from leangan.techniques.quantize_linear import check_names, quantize
from leangan.techniques.scheme import FLOAT, Scheme, parse_word

SCHEMA = 1
_HEAD = """\
# The precision of each layer, for `leangan quantize MODEL --plan THIS --data DIR -o OUT.pt2`.
# Edit it freely: w8a8 has weights and inputs in 8 bits, w8a16 inputs in 16, w8 (w4, ...) weights
# only, and float is left alone. Layers that are not listed have the default. Behind each layer:
# the quality if that layer alone were quantized, its time in float and so, its share of the work.
"""
_BITS = ("weight_bits", "activation_bits", "signed")
"""Fields of the scheme that the words say."""


@dataclass(frozen=True)
class LayerFacts:
    """What is known of a layer in its precision; for the comments only."""

    noise_db: float | None = None
    """Of the output when only this layer is quantized; None when unknown or without noise."""
    float_ms: float | None = None
    ms: float | None = None
    macs_share: float | None = None
    """0 to 1, of the multiply-accumulates of all layers."""

    def __str__(self) -> str:
        """In words: "alone 52.3 dB; 0.92 -> 0.47 ms; 12.0% of the MACs"."""
        said = []
        if self.noise_db is not None:
            said.append(f"alone {self.noise_db:.1f} dB")
        if self.float_ms is not None and self.ms is not None:
            said.append(f"{self.float_ms:.2f} -> {self.ms:.2f} ms")
        if self.macs_share is not None:
            said.append(f"{self.macs_share:.1%} of the MACs")
        return "; ".join(said)


@dataclass(frozen=True)
class PrecisionPlan:
    """A precision for each layer of one generator."""

    layers: Mapping[str, str]
    """Words by layer: `scheme.parse_word`, or "float"."""
    default: str = "w8a8"
    """The word of layers that are not named."""
    model: str | None = None
    """The generator that it was made for, for people."""
    scheme: Scheme = field(default_factory=Scheme)
    """How numbers are chosen; the bits are those of the words."""
    facts: Mapping[str, LayerFacts] = field(default_factory=dict)
    """By layer; written as comments, and not read again."""

    def word(self, name: str) -> str:
        """The precision of a layer."""
        return self.layers.get(name, self.default)


def write_plan(plan: PrecisionPlan, path: Path) -> Path:
    """Write YAML, atomically; layers in the order of `plan.layers`."""
    usual = asdict(Scheme())
    settings = {
        key: value
        for key, value in asdict(plan.scheme).items()
        if key not in _BITS and value != usual[key]
    }
    head: dict[str, Any] = {"schema": SCHEMA, "model": plan.model}
    if settings:
        head["scheme"] = settings
    head["default"] = plan.default
    lines = [_HEAD + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "layers:"]
    entries = {name: f"  {_quoted(name)}: {word}" for name, word in plan.layers.items()}
    wide = max((len(line) for line in entries.values()), default=0)
    for name, line in entries.items():
        said = str(plan.facts.get(name, ""))
        lines.append(f"{line:<{wide}}  # {said}" if said else line)
    if not entries:
        lines[-1] += " {}"
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_plan(path: Path) -> PrecisionPlan:
    """Read what `write_plan` wrote, or a person edited.

    Raises:
        UsageError: it is no plan; the line and the key or layer that is wrong are named.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as a plan of precisions: {said}") from error
    found = _mapping(root, path, "a plan of precisions; compress writes plan.yaml")
    known = ("schema", "model", "scheme", "default", "layers")
    for key, (line, _) in found.items():
        if key not in known:
            raise UsageError(
                f"{path}, line {line}: a plan has no {key!r}; it has {', '.join(known)}."
            )
    schema = _scalar(found, "schema", path)
    if schema != str(SCHEMA):
        raise UsageError(f"{path} is no plan of precisions of schema {SCHEMA}.")
    if "layers" not in found:
        raise UsageError(f"{path}: 'layers' is missing, the precision of each layer by its name.")
    line, node = found["layers"]
    layers = _mapping(node, path, f"line {line}: 'layers' must say a precision for each layer")
    default = _word(_scalar(found, "default", path) or "w8a8", path, found, "default")
    return PrecisionPlan(
        {n: _word(_text(v, path, at, n), path, layers, n) for n, (at, v) in layers.items()},
        default,
        _scalar(found, "model", path),
        _scheme(found, path),
    )


def calibrate_plan(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    plan: PrecisionPlan,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Choose the numbers of every layer that is not float in `plan`.

    Args:
        generator: float.
        data: inputs to calibrate on.
        plan: see `read_plan`.
        names: of the inputs, for the error that one of them may cause.
        seed: see `calibrate`.
        progress: called with (units done, units in all).

    Returns:
        Of all layers, each in its own precision; those that stay float in one that others have,
        the default one first, or where all are float, in 8 bits.

    Raises:
        UsageError: the plan names a layer that there is not; those of a like name are listed.
    """
    own = list(quantizable(generator.module()))
    check_names(generator, plan.layers, own)
    used = [word for word in map(plan.word, own) if word != FLOAT]
    spare = plan.default if plan.default in used else (used or ["w8a8"])[0]
    words = {n: spare if plan.word(n) == FLOAT else plan.word(n) for n in own}
    schemes = {word: plan.scheme.at(word) for word in words.values()}
    made = calibrate_each(generator, data, schemes, names=names, seed=seed, progress=progress)
    return {name: made[word][name] for name, word in words.items()}


def apply_plan(
    generator: Generator,
    data: Sequence[tuple[Tensor, ...]],
    plan: PrecisionPlan,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Generator:
    """Quantize a generator as the plan says.

    Args: as those of `calibrate_plan`.

    Raises:
        UsageError: as `calibrate_plan`, or the plan leaves every layer in float.
    """
    calibration = calibrate_plan(generator, data, plan, names=names, seed=seed, progress=progress)
    kept = [name for name in calibration if plan.word(name) == FLOAT]
    return quantize(generator, calibration, keep_float=kept)


Found = dict[str, tuple[int, yaml.Node]]
"""Line and value by key."""


def _mapping(node: yaml.Node | None, path: Path, wanted: str) -> Found:
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(
            f"{path} is not {wanted}." if "line" not in wanted else f"{path}, {wanted}."
        )
    found: Found = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{path}, line {line}: a name was expected.")
        if key.value in found:
            raise UsageError(
                f"{path}, line {line}: {key.value!r} stands there twice, first in line "
                f"{found[key.value][0]}; take one out."
            )
        found[key.value] = line, value
    return found


def _scalar(found: Found, key: str, path: Path) -> str | None:
    """The text of a key; None when it is missing or null."""
    if key not in found:
        return None
    line, node = found[key]
    text = _text(node, path, line, key)
    return None if node.tag.endswith(":null") else text


def _text(node: yaml.Node, path: Path, line: int, key: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(f"{path}, line {line}: {key!r} must be one word.")
    return str(node.value)


def _word(word: str, path: Path, found: Found, key: str) -> str:
    if word != FLOAT:
        try:
            parse_word(word)
        except UsageError as error:
            raise UsageError(f"{path}, line {found[key][0]}: {key}: {error}") from error
    return word


def _scheme(found: Found, path: Path) -> Scheme:
    if "scheme" not in found:
        return Scheme()
    line, node = found["scheme"]
    values = _mapping(node, path, f"line {line}: 'scheme' must hold settings")
    known = [f.name for f in fields(Scheme) if f.name not in _BITS]
    for key, (at, _) in values.items():
        if key not in known:
            close = get_close_matches(key, known, 1)
            end = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}."
            raise UsageError(f"{path}, line {at}: a scheme has no {key!r}; {end}")
    try:
        return Scheme(**yaml.safe_load(yaml.serialize(node)))
    except (UsageError, TypeError) as error:
        raise UsageError(f"{path}, line {line}: 'scheme': {error}") from error


def _quoted(name: str) -> str:
    """A layer's name as a key of YAML, in quotes where it would be taken for something else."""
    return yaml.safe_dump({name: 0}, allow_unicode=True, width=10**6).rpartition(": ")[0]
