"""A SavedModel of TensorFlow, which is a folder; what Keras 2 saved is read without TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.sources.base import Request
from leangan.sources.keras_build import built, fill, keras_on_torch
from leangan.sources.keras_file import from_keras
from leangan.sources.saved_model_graph import load_graph
from leangan.sources.saved_model_keras import GRAPH, description, read_keras


def accepts(source: Any) -> bool:
    """Whether it names such a folder, or the `saved_model.pb` in it."""
    path = Path(source) if isinstance(source, str | Path) else None
    return path is not None and (path if path.name == GRAPH else path / GRAPH).is_file()


def load(source: Any, request: Request) -> Generator:
    """Read the model by the way that files of Keras go, or else its graph.

    Raises:
        BackendMissing: Keras is not installed; for a graph TensorFlow.
        UnsafeFile: it holds code, or tells its graph alone, and `request.trust` is not set.
        LeanganError: it is damaged, or has a layer that is not known; the layer is named.
    """
    folder = Path(source).parent if Path(source).name == GRAPH else Path(source)
    request.only_generator(str(folder))
    if request.weights is not None:
        raise UsageError(f"{folder} holds weights itself; --weights belongs to a .json.")
    text = description(folder)
    if text is None:
        return load_graph(folder, request)
    with keras_on_torch() as keras, tempfile.TemporaryDirectory(prefix="leangan-") as place:
        file = read_keras(folder, text, Path(place) / "weights.h5")
        model = built(keras, file.config, request, folder)
        fill(model, file.weights, folder)
        return from_keras(keras, model, folder.resolve().name, request)
