"""What configurations of Keras 2 say otherwise than those of Keras 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONSTANT = "_CONSTANT_VALUE"
_MODELS = ("Sequential", "Functional", "Model")
_UNGROUPED = re.compile(r"Conv\dDTranspose|(Depthwise|Separable)Conv\dD")
_KERNELS = re.compile("Depthwise|Separable")  # whose kernels have names of their own
_BEFORE = {
    "groups": (1,),
    "renorm": (False, None),
    "renorm_clipping": (None,),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "synchronized": (False,),
    "time_major": (False,),
    "ragged": (False, None),
    "sparse": (False, None),
    "type_spec": (None,),
}
"""Settings of Keras 2 that Keras 3 does not know, with the values that ask for nothing."""
_IRRELEVANT = ("renorm_momentum", "fused", "experimental_autocast")


def settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a layer of Keras itself, as Keras 3 calls them."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        known = key == "groups" and not _UNGROUPED.fullmatch(kind)
        unused = key == "kernel_initializer" and _KERNELS.match(kind)
        if unused or key in _IRRELEVANT or (key in _BEFORE and value in _BEFORE[key] and not known):
            continue
        if key == "batch_input_shape":
            if kind == "InputLayer":
                made["batch_shape"] = value
        elif key == "axis" and isinstance(value, list) and len(value) == 1:
            made[key] = value[0]
        elif key == "alpha" and kind == "LeakyReLU":
            made["negative_slope"] = value
        else:
            made[key] = value
    return made


def input_layer(shape: Any) -> dict[str, Any]:
    """The input that Keras 2 wrote into a model's first layer."""
    sizes = [None if s is None else int(s) for s in shape]
    return {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "config": {"batch_shape": sizes, "dtype": "float32", "name": "input"},
        "registered_name": None,
        "name": "input",
    }


def counted(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the calls of models inside of it counted from 0.

    Keras 2 counts them from 1, since a model was called once when it was made; Keras 3 minds that
    where a graph ends, and there only for functional models.
    """
    calls = {
        entry["config"].get("name", entry.get("name")): (entry["class_name"], len(nodes))
        for entry in config["layers"]
        if entry["class_name"] in _MODELS
        and isinstance(nodes := entry.get("inbound_nodes"), list)
        and all(isinstance(node, list) for node in nodes)
    }
    if not calls:
        return config
    highest: dict[str, int] = {}

    def look(item: Any) -> Any:
        if _is_place(item) and item[0] in calls:
            highest[item[0]] = max(highest.get(item[0], 0), item[1])
        return item

    def shift(item: Any) -> Any:
        late = _is_place(item) and item[0] in calls and highest[item[0]] >= calls[item[0]][1]
        return [item[0], item[1] - 1, *item[2:]] if late else item

    def shift_end(item: Any) -> Any:
        sequential = _is_place(item) and calls.get(item[0], ("",))[0] == "Sequential"
        return shift(item) if sequential else item

    nodes = [entry.get("inbound_nodes", []) for entry in config["layers"]]
    _each(nodes, look)
    _each(config.get("output_layers", []), look)
    layers = [
        {**entry, "inbound_nodes": _each(node, shift)}
        for entry, node in zip(config["layers"], nodes, strict=True)
    ]
    return {
        **config,
        "layers": layers,
        "output_layers": _each(config.get("output_layers", []), shift_end),
    }


def _is_place(item: Any) -> bool:
    """Whether it is a layer's name, the number of its call and that of an output."""
    numbers = isinstance(item, list) and len(item) >= 3 and isinstance(item[0], str)
    return numbers and isinstance(item[1], int)


def _each(value: Any, function: Any) -> Any:
    """`function` of every place in nested lists and dictionaries."""
    value = function(value)
    if isinstance(value, list):
        return [_each(item, function) if isinstance(item, list | dict) else item for item in value]
    if isinstance(value, dict):
        return {key: _each(item, function) for key, item in value.items()}
    return value


def called(node: list[Any]) -> dict[str, Any]:
    """A call as Keras 2 writes it for a function of TensorFlow: tensors stand in its keywords."""
    calls = node if node and isinstance(node[0], list) else [node]
    tensors = [_tensor(call) for call in calls]
    keywords = {
        key: _tensor(item) if _is_place(item) else item for key, item in calls[0][3].items()
    }
    if calls[0][0] == _CONSTANT:  # 1 - x; in Keras 3 a number may not stand before its tensor
        keywords = {**keywords, "x": calls[0][2]}
        tensors = [keywords.pop("y")]
    return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": keywords}


def _tensor(item: list[Any]) -> dict[str, Any]:
    place = [str(item[0]), int(item[1]), int(item[2])]
    config = {"shape": [None], "dtype": "float32", "keras_history": place}
    return {"class_name": "__keras_tensor__", "config": config}
