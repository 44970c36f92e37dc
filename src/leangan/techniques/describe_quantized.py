"""What quantization made of each layer of a generator: precision, steps, errors, shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from leangan import compact
from leangan.generator import Generator
from leangan.graph import cost
from leangan.techniques.histogram import Histogram
from leangan.techniques.read_quantized import Codebooks, EvenSteps, forms, told
from leangan.techniques.scheme import FLOAT

_WORST = 3


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer: its precision, and what that costs and saves."""

    name: str
    op: str
    """The ATen operator: "conv2d", "linear", ..."""
    params: int
    """Weights, without the bias."""
    bytes: int
    """That the weight takes in a file, steps and codebooks included."""
    macs: int
    bytes_share: float = 0.0
    """Of the bytes of all layers' weights."""
    macs_share: float = 0.0
    """Of the generator's multiply-accumulates."""
    precision: str = FLOAT
    """"w8a8", "w4" (inputs stay float), "codebook 4", or "float"."""
    activation_bits: int | None = None
    """None where the layer's input stays float."""
    per: str | None = None
    """What has a step of its own: "tensor", "channel", "group"; "codebook" where levels are not in
    even steps; None when float."""
    steps: int = 0
    """The number of steps or codebooks."""
    levels: int = 0
    """How many values a weight can take with one step or codebook."""
    weight_db: float | None = None
    """Signal to noise of the quantized weight, in dB: 20 is an error of a tenth of the weights'
    size, 40 of a hundredth. None when float, or where nothing tells."""
    output_db: float | None = None
    """How close the generator's output stays when only this layer is quantized, in dB; None where
    nobody measured it."""
    histogram: Histogram | None = None

    @property
    def quantized(self) -> bool:
        """Whether its weight has few levels."""
        return self.precision != FLOAT

    @property
    def integer(self) -> bool:
        """Whether a runtime can compute it in 8-bit integers: input and weight have no more."""
        return self.activation_bits == 8

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the histogram."""
        values = asdict(replace(self, histogram=None))
        del values["histogram"]
        return values


def describe_layers(
    generator: Generator,
    original: Generator | None = None,
    *,
    power: float | None = None,
) -> list[QuantizedLayer]:
    """All layers in the order in which they run, each once; all "float" when none is quantized.

    Args:
        generator: with quantize and dequantize operators in its graph, or with codebooks.
        original: the float generator that it was made of. Weights are compared with its weights of
            the same path. Without it errors are what the history says, else what rounding to steps
            of that size makes.
        power: what the noise on the output is compared with, the history tells that noise: the
            output port's squared range when not given, as in PSNR, where it has one.
    """
    port = generator.signature.outputs[0]
    if power is None and port.range is not None:
        power = (port.range[1] - port.range[0]) ** 2
    module = generator.module()
    found_forms, seen = forms(generator, module), told(generator)
    weights = dict(generator.program.state_dict)
    floats = original.program.state_dict if original is not None else {}
    found: dict[str, QuantizedLayer] = {}
    counted = cost.layers(generator)
    own = {w.node: found_forms.get(w.node, found_forms.get(w.weight or "")) for w in counted}
    # A weight that is computed with in float somewhere is not quantized, whatever else reads it.
    kept = {w.name for w in counted if own[w.node] is None}
    for layer in counted:
        if layer.name in found:  # the layer runs more than once
            before = found[layer.name]
            found[layer.name] = replace(before, macs=before.macs + layer.macs)
            continue
        form = own[layer.node]
        if form is None or layer.name in kept:
            tensor = weights.get(layer.weight or "")
            stored = tensor is not None and tensor.dim() > 1  # else the weight is computed
            params, size = (
                (tensor.numel(), _bytes(tensor)) if tensor is not None and stored else (0, 0)
            )
            found[layer.name] = QuantizedLayer(layer.name, layer.op, params, size, layer.macs)
            continue
        said = seen.get(layer.name, seen.get(form.path.removesuffix(".weight"), {}))
        weight = _fitting(floats.get(form.path), form)
        found[layer.name] = QuantizedLayer(
            layer.name, layer.op, form.made.numel(), sum(map(_bytes, form.stored)), layer.macs,
            precision=form.precision, activation_bits=form.activation_bits, per=form.per,
            steps=form.steps, levels=form.levels,
            weight_db=_weight_db(form, weight, said.get("snr_db")),
            output_db=_output_db(power, said.get("noise")),
            histogram=form.histogram(weight),
        )  # fmt: skip
    macs, stored = (sum(getattr(w, k) for w in found.values()) or 1 for k in ("macs", "bytes"))
    return [
        replace(w, macs_share=w.macs / macs, bytes_share=w.bytes / stored) for w in found.values()
    ]


def summarize(layers: Sequence[QuantizedLayer]) -> dict[str, Any] | None:
    """The whole in a few JSON values; None when no layer is quantized.

    `words` is a sentence; `precisions` the number of layers by precision; `integer_share` of the
    multiply-accumulates that are in 8-bit integers; `weight_bits` that a weight takes in a file on
    average; `worst` the names of the layers that cost most, by the output where it was measured,
    else by their weights.
    """
    if not any(w.quantized for w in layers):
        return None
    precisions = Counter(w.precision for w in layers)
    integer = sum(w.macs for w in layers if w.integer) / (sum(w.macs for w in layers) or 1)
    bits = 8 * sum(w.bytes for w in layers) / max(1, sum(w.params for w in layers))
    computed = f"{integer:.0%} of the MACs in 8 bits" if integer else "all computed in float"
    return {
        "words": f"{_counted(precisions)}; {computed}; {bits:.1f} bits a weight",
        "precisions": dict(precisions),
        "integer_share": integer,
        "weight_bits": bits,
        "worst": [w.name for w in worst(layers)],
    }


def worst(layers: Sequence[QuantizedLayer], number: int = _WORST) -> list[QuantizedLayer]:
    """The quantized layers that cost most quality, the worst first."""
    measured = [w for w in layers if w.output_db is not None]
    if measured:
        return sorted(measured, key=lambda w: w.output_db or 0.0)[:number]
    known = [w for w in layers if w.weight_db is not None and math.isfinite(w.weight_db)]
    return sorted(known, key=lambda w: w.weight_db or 0.0)[:number]


def _counted(precisions: Counter[str]) -> str:
    """The most frequent first, float last: "42 layers w8a8, 3 float"."""
    ordered = sorted(precisions.items(), key=lambda p: (p[0] == FLOAT, -p[1]))
    (first, number), *others = ordered
    layers = "layer" if number == 1 else "layers"
    return ", ".join([f"{number} {layers} {first}", *(f"{n} {p}" for p, n in others)])


def _weight_db(
    form: EvenSteps | Codebooks, weight: Tensor | None, said: float | None
) -> float | None:
    if weight is not None:
        noise = float((form.made - weight).double().square().sum())
        power = float(weight.double().square().sum())
    elif said is not None:
        return float(said)
    else:
        noise = form.likely_noise or 0.0
        power = float(form.made.double().square().sum())
        if noise == 0:
            return None
    if noise == 0 or power == 0:
        return math.inf
    return 10 * math.log10(power / noise)


def _output_db(power: float | None, noise: float | None) -> float | None:
    if power is None or noise is None:
        return None
    return 10 * math.log10(power / noise) if noise > 0 else math.inf


def _fitting(weight: Any, form: EvenSteps | Codebooks) -> Tensor | None:
    """What was rounded, where the weight is that of the layer; a rewrite may put axes of 1 in."""
    sizes = [s for s in form.made.shape if s > 1]
    if not isinstance(weight, Tensor) or [s for s in weight.shape if s > 1] != sizes:
        return None
    return weight.detach().reshape(form.made.shape).float() * form.factors


def _bytes(tensor: Tensor) -> int:
    """That a file holds the tensor in."""
    plain = tensor.detach().contiguous()
    raw = plain.view(torch.uint8) if plain.dim() else plain.reshape(1).view(torch.uint8)
    coded = compact.encode(raw.numpy().tobytes(), plain.element_size(), tuple(plain.shape))
    return len(coded[1]) if coded else plain.numel() * plain.element_size()
