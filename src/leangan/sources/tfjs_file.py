"""Layers models of TensorFlow.js: a `model.json` that holds Keras' architecture, and its shards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.sources.base import Request
from leangan.sources.keras_build import built, keras_on_torch
from leangan.sources.keras_file import from_keras
from leangan.sources.keras_read import MOST_CONFIG

_TYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2"}


def accepts(source: Any) -> bool:
    """Whether it is a JSON file that speaks of a topology."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or path.suffix != ".json" or not path.is_file():
        return False
    return path.stat().st_size <= MOST_CONFIG and b'"modelTopology"' in path.read_bytes()


def load(source: Any, request: Request) -> Generator:
    """Read the model and the shards beside it.

    Raises:
        BackendMissing: Keras is not installed.
        LeanganError: it is damaged, or has a layer that is not known; the layer is named.
    """
    path = Path(source)
    request.only_generator(str(path))
    topology, manifest = _read(path)
    with keras_on_torch() as keras:
        model = built(keras, topology, request, path)
        _fill(model, dict(_weights(manifest, path)), path)
        return from_keras(keras, model, path.parent.name or path.stem, request)


def _read(path: Path) -> tuple[Mapping[str, Any], list[Any]]:
    try:
        model = json.loads(path.read_bytes())
        if model.get("format", "layers-model") != "layers-model":
            raise LeanganError(
                f"{path} is a {model['format']} of TensorFlow.js; only layers models are read."
            )
        topology = model["modelTopology"]
        return topology.get("model_config", topology), list(model["weightsManifest"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LeanganError(f"{path} is damaged: it is no model.json of TensorFlow.js.") from error


def _weights(manifest: list[Any], path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The weights by name, float32."""
    try:
        for group in manifest:
            data = b"".join(_shard(path, str(name)) for name in group["paths"])
            position = 0
            for entry in group["weights"]:
                how = entry.get("quantization")
                kind = np.dtype(_TYPES[how["dtype"] if how else entry["dtype"]])
                shape = [int(size) for size in entry["shape"]]
                count = math.prod(shape)
                end = position + count * kind.itemsize
                if min(shape, default=1) < 0 or end > len(data):
                    raise LeanganError(f"{path}: its weights are cut short at {entry['name']!r}.")
                flat = np.frombuffer(data[position:end], kind).astype(np.float32)
                if how and "scale" in how:
                    flat = flat * np.float32(how["scale"]) + np.float32(how["min"])
                position = end
                yield str(entry["name"]), flat.reshape(shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LeanganError(f"{path} is damaged: its list of weights is no such list.") from error


def _shard(path: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise LeanganError(f"{path} names a shard {name!r} that does not lie beside it.")
    try:
        return (path.parent / name).read_bytes()
    except OSError as error:
        raise LeanganError(f"{path} needs its shard {name} beside it: {error.strerror}.") from error


def _fill(model: Any, weights: Mapping[str, np.ndarray[Any, Any]], path: Path) -> None:
    """Give each layer what stands under its name.

    Raises:
        LeanganError: a weight is missing, has another shape, or belongs to no layer.
    """
    left = dict(weights)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for variable in [] if hasattr(layer, "layers") else layer.variables:
            names = [n for n in left if _fits(n, layer.name, variable.name)]
            if len(names) != 1 or left[names[0]].shape != tuple(variable.shape):
                raise LeanganError(
                    f"{path}: there is no weight {variable.name!r} of shape "
                    f"{tuple(variable.shape)} for layer {layer.name!r}."
                )
            variable.assign(left.pop(names[0]))
    if left:
        raise LeanganError(f"{path} has a weight {next(iter(left))!r} that no layer takes.")


def _fits(name: str, layer: str, variable: str) -> bool:
    """Whether a name such as `conv/kernel` is that of a layer's weight."""
    *owners, last = name.split("/")
    # Keras 2 calls the only kernel of a depthwise layer so.
    same = last == variable or (last, variable) == ("depthwise_kernel", "kernel")
    return layer in owners[-1:] and same
