"""A SavedModel as Keras 2 writes it, without TensorFlow: tables and protocol buffers by hand."""

import json
from dataclasses import dataclass

import numpy as np

from leangan.sources.crc32c import crc32c

TYPES = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}


@dataclass(eq=False)
class Variable:
    key: str
    array: np.ndarray
    trained: bool


def number(value):
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


def field(place, value):
    if isinstance(value, int):
        return number(place << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(place << 3 | 2) + number(len(data)) + data


def checksum(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def block(entries):
    data, last = b"", b""
    for key, value in entries:
        shared = next((n for n in range(len(last)) if key[: n + 1] != last[: n + 1]), len(last))
        data += number(shared) + number(len(key) - shared) + number(len(value))
        data, last = data + key[shared:] + value, key
    data += bytes(4) + (1).to_bytes(4, "little") + b"\0"
    return data + checksum(data)


def table(entries, size=10):
    """Blocks of a few entries, the table of their places, and the footer."""
    data, places = b"", []
    entries = sorted(entries.items())
    for start in range(0, len(entries), size):
        made = block(entries[start : start + size])
        places.append((entries[start][0], number(len(data)) + number(len(made) - 5)))
        data += made
    index = block(places)
    footer = number(0) + number(0) + number(len(data)) + number(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def entry(kind, shape, start, size, crc):
    axes = b"".join(field(2, field(1, n)) for n in shape)
    made = field(1, kind) + field(2, axes) + field(4, start) + field(5, size)
    return made + number(6 << 3 | 5) + crc


def bundle(folder, graph, variables):
    data = b""
    entries = {b"": field(1, 1)}
    for variable in variables:
        raw, kind = variable.array.tobytes(), TYPES[str(variable.array.dtype)]
        found = entry(kind, variable.array.shape, len(data), len(raw), checksum(raw))
        entries[variable.key.encode()], data = found, data + raw
    size = checksum(len(graph).to_bytes(4, "little"))
    text = number(len(graph)) + size + graph
    crc = checksum(len(graph).to_bytes(4, "little") + size + graph)
    entries[b"_CHECKPOINTABLE_OBJECT_GRAPH"] = entry(7, (), len(data), len(text), crc)
    (folder / "variables.index").write_bytes(table(entries))
    (folder / "variables.data-00000-of-00001").write_bytes(data + text)


def listed(items):
    return {str(place): item for place, item in enumerate(items)}


def lists(variables):
    """The lists that Keras keeps of an object's variables."""
    trained = [v for v in variables if v.trained]
    others = [v for v in variables if not v.trained]
    api = {"non_trainable_variables": listed(others)}
    return {"trainable_variables": listed(trained), "keras_api": api}


def owner(place, arrays, traces):
    """An object with variables, and with other objects where there are arrays within arrays."""
    made = {
        name: owner(f"{place}/{name}", value, traces)
        if isinstance(value, dict)
        else Variable(f"{place}/{name}", np.float32(value), "moving" not in name)
        for name, value in arrays.items()
    }
    if traces:  # then the order of the attributes says nothing
        return {**dict(reversed(made.items())), **lists(made.values())}
    return made


def nodes(root, described):
    """The graph of all objects as the checkpoint has it, and as `saved_model.pb` has it."""
    found = [root]
    for item in found:
        children = {} if isinstance(item, Variable) else item
        found += [c for c in children.values() if not any(c is other for other in found)]
    places = {id(item): place for place, item in enumerate(found)}
    stored = saved = b""
    for place, item in enumerate(found):
        if isinstance(item, Variable):
            value = field(1, "VARIABLE_VALUE") + field(3, item.key)
            stored += field(1, field(2, value))
            saved += field(1, field(7, field(3, int(item.trained))))
            continue
        children = b"".join(
            field(1, field(1, places[id(child)]) + field(2, name)) for name, child in item.items()
        )
        user = field(1, "_tf_keras_network") + field(3, described) if not place else b""
        stored += field(1, children)
        saved += field(1, children + field(4, user))
    return stored, saved, [item for item in found if isinstance(item, Variable)]


def write(folder, config, weights, *, own=None, traces=True, old=False, **told):
    """Write a SavedModel and return its folder.

    Args:
        folder: where to.
        config: `class_name` and `config`, as in an `.h5`; None for a model without layers.
        weights: arrays by layer and name, in the order of the layers.
        own: arrays of the model itself, by name.
        traces: whether it is saved with the lists of variables.
        old: whether it is of a TensorFlow before 2.5.
        told: what more is said of the model.
    """
    layers = [{}, *(owner(name, arrays, traces) for name, arrays in weights.items())]
    root = owner("own", own or {}, False)
    if traces:
        of_layers = [v for o in layers for v in o.values() if isinstance(v, Variable)]
        root |= lists([*of_layers, *root.values()])
        root["keras_api"]["layers"] = listed(layers)
    else:
        root |= {f"layer-{place}": layer for place, layer in enumerate(layers)}
    text = json.dumps({**(config or {}), "model_config": config, **told})
    stored, saved, variables = nodes(root, text if old else "")
    (folder / "variables").mkdir(parents=True)
    bundle(folder / "variables", stored, variables)
    signature = field(5, field(1, "serving_default") + field(2, b""))
    graph = field(2, signature + field(7, saved))
    (folder / "saved_model.pb").write_bytes(field(1, 1) + graph)
    if config and not old:
        node = field(3, "root") + field(4, "_tf_keras_network") + field(5, text)
        (folder / "keras_metadata.pb").write_bytes(field(1, node))
    return folder
