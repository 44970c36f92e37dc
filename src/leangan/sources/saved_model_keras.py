"""What Keras 2 wrote into a SavedModel: the architecture, and whose the values are.

`keras_metadata.pb`, before TensorFlow 2.5 `saved_model.pb` itself, describes the model in JSON.
The checkpoint has a graph of its objects: whose attribute is what, and under which key a value is
stored. It lists the variables of each layer too, those that are trained before the others, which
is how an `.h5` has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leangan.errors import LeanganError
from leangan.sources.keras_read import MOST_CONFIG, KerasFile, model_config
from leangan.sources.protobuf import Message
from leangan.sources.saved_model_objects import ObjectGraph, weights_by_layer
from leangan.sources.tensor_bundle import TensorBundle, read_bundle

GRAPH = "saved_model.pb"
_METADATA = "keras_metadata.pb"
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MOST_GRAPH = 2**31  # bytes; protocol buffers are no larger


def description(folder: Path) -> str | None:
    """The JSON in which Keras 2 describes the whole model; None where there is none.

    Raises:
        LeanganError: the file is damaged.
    """
    try:
        if (folder / _METADATA).is_file():
            nodes = _message(folder / _METADATA, 4 * MOST_CONFIG).messages(1)
            root = [node.text(5) for node in nodes if not node.whole(2)]
            if root and root[0]:
                return root[0]
        objects = [o for node in _saved_objects(folder)[:1] for o in Message(node).messages(4)]
        known = [o for o in objects if o.text(1).startswith("_tf_keras_")]
        return known[0].text(3) or None if known else None
    except ValueError as error:
        raise LeanganError(f"{folder} is damaged: {error}.") from error


def read_keras(folder: Path, text: str, weights: Path) -> KerasFile:
    """The architecture in a description, and the weights that belong to it in a file of HDF5.

    Args:
        folder: of the SavedModel.
        text: see `description`.
        weights: the file to write, an `.h5`.

    Raises:
        LeanganError: the folder is damaged, or does not tell the order of a layer's weights.
    """
    described = model_config(text, folder, _listed)
    model = described.get("model_config")
    if not isinstance(model, dict) or "config" not in model:
        model = described
    config = {"class_name": model.get("class_name"), "config": model.get("config")}
    shape = described.get("build_input_shape")
    if isinstance(shape, list):  # what builds a class of the user's own
        config["build_config"] = {"input_shape": [None, *shape[1:]]}
    try:
        bundle = read_bundle(folder / "variables" / "variables")
        graph = ObjectGraph(Message(bundle.text(_OBJECTS)).all(1))
        keys = weights_by_layer(graph, lambda: ObjectGraph(_saved_objects(folder)), folder)
        _write(keys, bundle, weights)
    except ValueError as error:
        raise LeanganError(f"{folder} is damaged: {error}.") from error
    return KerasFile(config, weights)


def meta_graph(folder: Path) -> Message:
    """The graph of the model with all that belongs to it.

    Raises:
        ValueError: the file is damaged.
    """
    graphs = _message(folder / GRAPH, _MOST_GRAPH).messages(2)
    if not graphs:
        raise ValueError(f"{GRAPH} holds no graph")
    return graphs[0]


def _saved_objects(folder: Path) -> list[memoryview]:
    """The objects of the model as they stand beside its graph; the first has all others."""
    return [node for objects in meta_graph(folder).messages(7) for node in objects.all(1)]


def _message(path: Path, most: int) -> Message:
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} is too large to be one")
    return Message(path.read_bytes())


def _listed(item: dict[str, Any]) -> Any:
    """What JSON has no form for, as it stands in an `.h5`."""
    return item.get("items") if item.get("class_name") in ("__tuple__", "TensorShape") else item


def _write(weights: Mapping[str, Sequence[str]], bundle: TensorBundle, target: Path) -> None:
    """Write what `load_weights` takes; the order counts, and not the names."""
    import h5py

    with h5py.File(target, "w", libver="latest") as file:  # which lets attributes be large
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name for name in weights if name]
        for name, keys in weights.items():
            layer = group.create_group(name or "top_level_model_weights")
            layer.attrs["weight_names"] = [str(place) for place in range(len(keys))]
            for place, key in enumerate(keys):
                layer.create_dataset(str(place), data=bundle.array(key))
