"""A Generator on disk: a torch.export archive with our metadata inside.

Weights lie raw in the archive and the graph is JSON, so nothing needs to be unpickled. PyTorch's
own reader nevertheless unpickles some members, evaluates size expressions and guard code, and
resolves operator names by attribute; a file is therefore checked against allow-lists before
PyTorch sees it.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# The operators of quantized programs exist once this was imported.
import torch.ao.quantization.fx._decomposed
from torch.export import ExportedProgram

from leangan import compact
from leangan.errors import LeanganError, UnsafeFile
from leangan.files import atomic
from leangan.generator import Generator, Signature, Step

SCHEMA = 1
METADATA = "leangan.json"
_MEMBERS = re.compile(
    r"[^/]+/("
    r"data/weights/(weight_\d+|\w+_weights_config\.json)"
    r"|data/compact/\w+/weight_\d+"
    r"|data/constants/(tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/\w+\.pt"  # must be empty, see below
    r"|models/\w+\.json|extra/leangan\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id|alignment)|\.format_version|\.storage_alignment"
    r")"
)
_MOST_EXPANSION = 128
"""How many times its zipped size a member may have; graphs reach about 30."""
_ITEM_BYTES = {1: 1, 2: 1, 6: 2, 7: 4, 13: 2}
"""Bytes per element of uint8, int8, float16, float32, bfloat16, by their numbers in PyTorch."""
_TARGET = re.compile(
    r"torch\.ops\.(aten|quantized_decomposed|torchao)\.\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
    r"|math\.(trunc|ceil|floor)"
    r"|torch\.sym_(max|min|int|float|ite|not)"
)
# sympy.sympify evaluates text: only names, whole numbers, calls and arithmetic may pass, and no
# attribute access, string (but a symbol's or a number's) or subscript.
_EXPRESSION = re.compile(
    r"(?:Symbol\('\w+'|Float\('-?\d+(?:\.\d+)?(?:e[+-]?\d+)?'|[A-Za-z]\w*|\d+|[\s(),=+*/<>-])*"
)
_CALLABLE = re.compile(r"([A-Za-z_]\w*|\))\s*\(")  # a name, or the result of brackets
_FUNCTIONS = frozenset(
    {
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "ModularIndexing",
        "PythonMod",
        "TruncToInt",
        "FloorToInt",
        "CeilToInt",
        "ToFloat",
        "IntTrueDiv",
        "FloatTrueDiv",
        "Where",
        "Eq",
        "Ne",
        "Ge",
        "Gt",
        "Le",
        "Lt",
        "And",
        "Or",
        "Not",
        "Identity",
        "floor",
        "ceiling",
        "LShift",
        "RShift",
    }
)


def save(generator: Generator, path: Path | str) -> Path:
    """Write `generator` as one `.pt2` file, atomically.

    Returns:
        The path written.

    Raises:
        LeanganError: the name does not end in .pt2, or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise LeanganError(f"A generator is saved as a .pt2 file, {path.name!r} is none.")
    metadata = {
        "schema": SCHEMA,
        "name": generator.name,
        "task": generator.task,
        "signature": generator.signature.to_json(),
        "history": [
            {"name": s.name, "settings": dict(s.settings), "measured": dict(s.measured)}
            for s in generator.history
        ],
    }
    program = generator.program
    # Both would need a reader that unpickles or evaluates.
    program.example_inputs = None
    program._guards_code = []
    # PyTorch's own file writer ends the whole process when the disk is full.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    with atomic(path) as temporary:
        temporary.write_bytes(_compacted(buffer).getbuffer())
    return path


def _compacted(buffer: io.BytesIO) -> io.BytesIO:
    """The archive with each weight in its shortest form; as it was where plain bytes are best."""
    with zipfile.ZipFile(buffer) as archive:
        forms = {}
        for name, (shape, itemsize) in _weights(archive).items():
            form = compact.encode(archive.read(name), itemsize, shape)
            if form is not None:
                forms[name] = form
        if not forms:
            return buffer
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as made:
            for info in archive.infolist():
                if info.filename in forms:
                    folder, payload = forms[info.filename]
                    place = info.filename.replace("data/weights/", f"data/compact/{folder}/")
                    made.writestr(place, payload)
                else:
                    # Beside weights of a few bits the graph and the index are no small part.
                    method = zipfile.ZIP_DEFLATED if info.filename.endswith(".json") else None
                    made.writestr(info.filename, archive.read(info), method, 9)
    return result


def _expanded(path: Path) -> Path | io.BytesIO:
    """What PyTorch's reader can read: plain bytes for each weight."""
    with zipfile.ZipFile(path) as archive:
        compacted = [n for n in archive.namelist() if "/data/compact/" in n]
        if not compacted:
            return path
        weights = _weights(archive)
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as made:
            for info in archive.infolist():
                content = archive.read(info)
                name = info.filename
                if name in compacted:
                    root, _, place = name.partition("/data/compact/")
                    form, _, weight = place.partition("/")
                    name = f"{root}/data/weights/{weight}"
                    if name not in weights:
                        raise LeanganError(f"{path} is damaged: nothing is known of {weight}.")
                    try:
                        shape, itemsize = weights[name]
                        content = compact.decode(form, content, math.prod(shape), itemsize)
                    except LeanganError as error:
                        raise LeanganError(f"{path} is damaged: {error} ({weight}).") from error
                if name in made.NameToInfo:
                    raise LeanganError(f"{path} is damaged: it holds {name} twice.")
                made.writestr(name, content)
    result.seek(0)
    return result


def _index(archive: zipfile.ZipFile) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Per weight the member that holds it, its name, and all that is said of it."""
    for member in archive.namelist():
        if member.endswith("_weights_config.json"):
            folder = member.rpartition("/")[0]
            for name, payload in json.loads(archive.read(member))["config"].items():
                yield f"{folder}/{payload['path_name']}", name, payload


def _weights(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], int]]:
    """Per member that holds a weight its shape and bytes per element."""
    found = {}
    for member, _, payload in _index(archive):
        meta = payload["tensor_meta"]
        itemsize = _ITEM_BYTES.get(meta["dtype"])
        if itemsize is not None:
            found[member] = tuple(int(size["as_int"]) for size in meta["sizes"]), itemsize
    return found


def _tie(program: ExportedProgram, path: Path) -> None:
    """Weights that are one tensor under several names in the file are one again."""
    first: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for member, name, payload in _index(archive):
            known = first.setdefault(json.dumps([member, payload["tensor_meta"]]), name)
            if known != name:
                program.state_dict[name] = program.state_dict[known]


def is_archive(path: Path) -> bool:
    """Whether `path` is a torch.export archive (ours or another's)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith("/archive_format") for n in archive.namelist())


def open_archive(path: Path | str) -> Generator:
    """Read what `save` wrote, running nothing of the file.

    Raises:
        UnsafeFile: the file holds a pickle, code, or operators outside of the allow-list.
        LeanganError: it is no generator of ours, or it is damaged.
    """
    path = Path(path)
    metadata = _known(check(path), path)
    try:
        program = torch.export.load(_expanded(path))
        _tie(program, path)
        return Generator(
            program,
            Signature.from_json(metadata["signature"]),
            metadata["task"],
            tuple(Step(**step) for step in metadata["history"]),
            metadata["name"],
        )
    except LeanganError:
        raise
    except Exception as error:  # whatever PyTorch's reader says of a damaged file
        raise LeanganError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def check(path: Path) -> dict[str, Any] | None:
    """Refuse all that PyTorch's reader would execute; return our metadata or None.

    Raises:
        UnsafeFile: the file holds a pickle, code, or operators outside of the allow-list.
        LeanganError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = None
            for info in archive.infolist():
                name = info.filename
                if not _MEMBERS.fullmatch(name):
                    raise UnsafeFile(
                        f"{path} holds {name!r}, which a generator file has no use for and which "
                        "could run code; it was not opened."
                    )
                if info.file_size > _MOST_EXPANSION * max(info.compress_size, 4096):
                    raise UnsafeFile(
                        f"{path}: {name!r} would expand to {info.file_size} bytes, far more than "
                        "a generator's would; it was not opened."
                    )
                if "/sample_inputs/" in name and info.file_size:
                    raise UnsafeFile(
                        f"{path} holds pickled sample inputs; it was not opened. Save it again "
                        "with leangan, or with program.example_inputs = None."
                    )
                if name.endswith("_config.json"):
                    _check_payloads(json.loads(archive.read(info)), path)
                elif "/models/" in name:
                    _check_graph(json.loads(archive.read(info)), path)
                elif name.endswith("/" + METADATA):
                    metadata = json.loads(archive.read(info))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise LeanganError(f"{path} is damaged or cut short: {error}") from error
    return metadata


def _known(metadata: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    """The metadata, if it is of the schema that is read here."""
    if metadata is None:
        raise LeanganError(
            f"{path} is an exported program without leangan's signature. "
            "Load the original model with leangan and save it, to add one."
        )
    if metadata.get("schema") != SCHEMA:
        raise LeanganError(
            f"{path} has schema {metadata.get('schema')}, this leangan reads {SCHEMA}: "
            "install the leangan that wrote it, or a newer one."
        )
    return dict(metadata)


def _check_payloads(config: dict[str, Any], path: Path) -> None:
    for name, payload in config["config"].items():
        if payload.get("use_pickle"):
            raise UnsafeFile(f"{path}: tensor {name!r} is stored as a pickle; it was not opened.")


def _check_graph(model: dict[str, Any], path: Path) -> None:
    if model.get("guards_code"):
        raise UnsafeFile(f"{path} holds guard code to be evaluated; it was not opened.")
    for key, text in _strings(model):
        if key == "target" and not _TARGET.fullmatch(text):
            raise UnsafeFile(f"{path} uses the operator {text!r}, which is not allowed.")
        if key == "expr_str":
            called = set(_CALLABLE.findall(text))
            if not _EXPRESSION.fullmatch(text) or not called <= _FUNCTIONS:
                raise UnsafeFile(f"{path} holds a suspicious size expression {text[:80]!r}.")
    for name in model.get("range_constraints", {}):
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UnsafeFile(f"{path} holds a suspicious size name {name[:80]!r}.")


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """All (key, string) pairs anywhere in a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                yield key, item
            else:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
