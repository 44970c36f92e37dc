"""Keras on its PyTorch backend: imported without disturbing anyone, and a model made with it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leangan.errors import BackendMissing, LeanganError
from leangan.graph.capture import quiet
from leangan.sources.base import Request
from leangan.sources.keras_config import Known, cleaned
from leangan.sources.python import import_file

_LEAST = (3, 15)  # before, transposed convolutions of odd kernels lay a pixel off on PyTorch
_GET_IT = "type: pip install 'leangan[keras]'"


@contextmanager
def keras_on_torch() -> Iterator[Any]:
    """The package `keras` with the CPU as its device for the block.

    Raises:
        BackendMissing: it is not installed, or too old.
        LeanganError: this process uses Keras with another backend already.
    """
    if any(importlib.util.find_spec(name) is None for name in ("keras", "h5py")):
        raise BackendMissing(f"Reading Keras models needs Keras and h5py; {_GET_IT}")
    before = os.environ.get("KERAS_BACKEND")
    try:
        os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is first imported
        keras = importlib.import_module("keras")
    finally:
        if before is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = before
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    if version < _LEAST:
        raise BackendMissing(f"Keras {keras.__version__} is too old to read models; {_GET_IT}")
    if keras.backend.backend() != "torch":
        raise LeanganError(
            f"This process already uses Keras with its {keras.backend.backend()} backend; load the "
            "model in a process of its own, or set KERAS_BACKEND=torch before keras is imported."
        )
    with keras.device("cpu"):
        yield keras


def built(keras: Any, config: Mapping[str, Any], request: Request, path: Path) -> Any:
    """The model that a configuration describes, its weights zero.

    Args:
        keras: the package.
        config: as it stands in the file.
        request: for `code` and `trust`.
        path: of the file, for errors.

    Raises:
        LeanganError: see `cleaned`; or Keras does not make a model of it.
    """
    from leangan.sources.keras_standins import OBJECTS

    own = _own_objects(keras, request.code) if request.code else {}
    known = Known({**OBJECTS, **own}, request.trust)
    clean = cleaned(config, known, str(path))
    try:
        with quiet():
            model = keras.saving.deserialize_keras_object(
                clean, custom_objects=dict(known.objects), safe_mode=not request.trust
            )
    except LeanganError:
        raise
    except Exception as error:
        raise LeanganError(f"{path}: Keras cannot build it: {reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise LeanganError(f"{path} describes a {type(model).__name__}, which is no model.")
    return model


def fill(model: Any, weights: Path, path: Path) -> None:
    """Load the weights.

    Raises:
        LeanganError: they do not fit the architecture.
    """
    try:
        with quiet():
            model.load_weights(weights)
    except Exception as error:
        raise LeanganError(f"{path}: its weights do not fit its layers: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The line that says what is wrong, of messages of Keras that go over pages."""
    said = re.split(r"Exception encountered:|Error encountered:", str(error))[-1]
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in said.splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception encountered when")]
    return told[0][:300] if told else type(error).__name__


def _own_objects(keras: Any, code: Path) -> dict[str, Any]:
    """The layers, models and functions that the user's file defines."""
    module = import_file(code)
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", None) == module.__name__
        and (not isinstance(value, type) or issubclass(value, keras.layers.Layer))
    }
