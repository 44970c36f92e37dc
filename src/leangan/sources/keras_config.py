"""The architecture of a Keras file, reduced to what may be built: known layers and plain values.

Keras looks classes and functions up by names that stand in the file. What is not on a list here,
or in the file that the user gave, never reaches it. Configurations of Keras 2 become those of
Keras 3 on the way.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leangan.errors import LeanganError, UnsafeFile
from leangan.sources import keras_legacy as legacy

_LAYERS = frozenset(
    re.findall(
        r"\w+",
        """Activation Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
        AveragePooling2D AveragePooling3D BatchNormalization Bidirectional CenterCrop
        Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose
        ConvLSTM1D ConvLSTM2D Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D
        DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell
        GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
        GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
        GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell
        LayerNormalization LeakyReLU MaxPooling1D MaxPooling2D MaxPooling3D Maximum
        Minimum MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization
        RNN ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D
        SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D
        SpatialDropout3D SpectralNormalization StackedRNNCells Subtract TimeDistributed
        UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
        ZeroPadding2D ZeroPadding3D""",
    )
)
_MODELS = ("Sequential", "Functional", "Model")
_OPERATIONS = re.compile(r"keras\.src\.ops\.(numpy|nn|core|image|math|linalg)")
_VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__", "__tuple__")
_TRAINING = ("_regularizer", "_constraint", "quantization_config")
_MOST_LAYERS = 20_000


@dataclass(frozen=True)
class Known:
    """What may be built beside the layers of Keras itself."""

    objects: Mapping[str, Any]
    """Classes and functions by name: stand-ins, and those of the user's own file, which win."""
    trust: bool
    """Whether code that lies in the file may run."""


def cleaned(config: Mapping[str, Any], known: Known, file: str) -> dict[str, Any]:
    """The model's configuration in the form of Keras 3, with nothing in it that is not known.

    Weights begin as zeros, computations are in float32, regularizers and training are left out.

    Args:
        config: of the outermost model, as it stands in the file.
        known: see there.
        file: its name, for errors.

    Raises:
        UnsafeFile: it holds code, and `known.trust` is not set.
        LeanganError: it holds a layer that is not known, or is no configuration.
    """
    try:
        return _Cleaner(known, file).layer(config)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
        raise LeanganError(
            f"{file} is damaged: its architecture is not in the form that Keras writes "
            f"({type(error).__name__}: {error})."
        ) from error


class _Cleaner:
    def __init__(self, known: Known, file: str) -> None:
        self.known, self.file, self.count = known, file, 0

    def layer(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A layer, operation or model."""
        kind, config = str(entry["class_name"]), entry["config"]
        self.count += 1
        if self.count > _MOST_LAYERS:
            raise ValueError("too many layers")
        kind = self._name(kind, str(entry.get("registered_name") or ""))
        module = None
        if isinstance(config, list) and kind == "Sequential":
            config = {"name": "sequential", "layers": config}
        if not isinstance(config, dict):
            raise ValueError(f"{kind} has no settings")
        name = str(entry.get("name") or config.get("name") or kind)
        if kind == "Lambda":
            return self._lambda(entry, dict(config), name)
        if kind in self.known.objects:
            settings = self._settings(kind, config)
        elif kind in _MODELS:
            settings, module = self._model(kind, config), "keras"
            kind = "Model" if kind == "Functional" else kind
        elif _OPERATIONS.fullmatch(str(entry.get("module"))) and _is_operation(entry):
            settings, module = self.value(config), str(entry["module"])
        elif kind in _LAYERS:
            settings, module = self._settings(kind, config), "keras.layers"
        else:
            raise LeanganError(
                f"{self.file}: layer {name!r} is a {kind}, which is no layer of Keras; give the "
                "Python file that defines the class with --code FILE.py (code= in Python)."
            )
        return self._entry(entry, kind, settings, module, name)

    def _entry(
        self, entry: Mapping[str, Any], kind: str, settings: Any, module: str | None, name: str
    ) -> dict[str, Any]:
        made = {
            "module": module,
            "class_name": kind,
            "config": settings,
            "registered_name": None if module else kind,
            "name": name,
        }
        if "inbound_nodes" in entry:
            nodes = entry["inbound_nodes"]
            calls = kind in ("TFOpLambda", "SlicingOpLambda")
            made["inbound_nodes"] = [legacy.called(n) if calls else self.value(n) for n in nodes]
        if isinstance(entry.get("build_config"), dict):
            made["build_config"] = self.value(entry["build_config"])
        return made

    def _name(self, kind: str, registered: str) -> str:
        """The class's name without its package: `Addons>InstanceNormalization`."""
        for name in (registered, kind):
            if name.rpartition(">")[2] in self.known.objects:
                return name.rpartition(">")[2]
        return kind

    def _model(self, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
        layers: list[dict[str, Any]] = []
        for entry in legacy.counted(config)["layers"]:
            shape = entry["config"].get("batch_input_shape")
            if kind == "Sequential" and not layers and entry["class_name"] != "InputLayer":
                # Keras 2 wrote the input's shape into the first layer.
                shape = shape or config.get("build_input_shape")
                if shape:
                    layers.append(legacy.input_layer(shape))
            layers.append(self.layer(entry))
        config = legacy.counted(config)
        kept = {
            key: self.value(config[key])
            for key in ("name", "trainable", "input_layers", "output_layers")
            if key in config
        }
        return {**kept, "layers": layers}

    def _settings(self, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
        own = kind in self.known.objects
        made: dict[str, Any] = {}
        for key, value in legacy.settings(kind, config).items() if not own else config.items():
            if key.endswith("_initializer"):
                made[key] = "zeros"
            elif key == "dtype":
                made[key] = _plain_type(value) if kind == "InputLayer" else "float32"
            elif not key.endswith(_TRAINING):
                made[key] = self.value(value)
        return made

    def _lambda(
        self, entry: Mapping[str, Any], config: dict[str, Any], name: str
    ) -> dict[str, Any]:
        """A Lambda: the user's own function of that name, or the code in the file if trusted."""
        function = config["function"]
        own = next((n for n in (name, function) if _is_own(n, self.known.objects)), None)
        if own is not None:
            code: Any = own
        elif not self.known.trust:
            raise UnsafeFile(
                f"{self.file}: layer {name!r} is a Lambda, which holds compiled Python code. Give "
                f"a function {_identifier(name)} that does the same with --code FILE.py, or load "
                "with --trust if you trust whoever made the file."
            )
        elif isinstance(function, list):
            keys = ("code", "defaults", "closure")
            parts = dict(zip(keys, function, strict=True))
            code = {"class_name": "__lambda__", "config": parts}
        else:
            code = function
        made = {"name": config.get("name", name), "dtype": "float32", "function": code}
        if isinstance(config.get("arguments"), dict):
            made["arguments"] = self.value(config["arguments"])
        return self._entry(entry, "Lambda", made, "keras.layers", name)

    def value(self, value: Any) -> Any:
        """A setting: plain, a list or dictionary of such, or an object that may be built."""
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value.get("class_name")
        if kind is None or kind in _VALUES:
            return {key: self.value(item) for key, item in value.items()}
        if kind == "__lambda__" and not self.known.trust:
            raise UnsafeFile(
                f"{self.file} holds compiled Python code; load it with --trust if you trust "
                "whoever made the file."
            )
        if kind == "__lambda__":
            return value
        if kind == "function":
            return self._function(str(value["config"]))
        if kind in ("Policy", "DTypePolicy"):
            return "float32"
        return self.layer(value)

    def _function(self, name: str) -> str:
        """A function by its name: an activation of Keras or the user's own."""
        import keras

        if name not in self.known.objects and not callable(getattr(keras.activations, name, None)):
            raise LeanganError(
                f"{self.file} uses a function {name!r}, which Keras does not have; give the Python "
                "file that defines it with --code FILE.py (code= in Python)."
            )
        return name


def _is_operation(entry: Mapping[str, Any]) -> bool:
    import keras

    found = getattr(importlib.import_module(str(entry["module"])), str(entry["class_name"]), None)
    return isinstance(found, type) and issubclass(found, keras.Operation)


def _is_own(name: Any, objects: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and name in objects and not isinstance(objects[name], type)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _plain_type(value: Any) -> str:
    name = value["config"]["name"] if isinstance(value, dict) else value
    return name if isinstance(name, str) and name.startswith(("int", "uint")) else "float32"
