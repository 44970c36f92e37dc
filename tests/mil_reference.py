"""A Core ML program computed with PyTorch, by what Core ML's own reference says of each operator.

Core ML runs on Apple systems only. This reads the file that was written and shares no code with the
converter's front end, so that a wrong conversion shows on any system.
"""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import torch
import torch.nn.functional as F
from coremltools.converters.mil.frontend.milproto.load import load


def run(package: Path, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of an .mlpackage in their order; an operator that is not known is a KeyError."""
    spec = ct.models.MLModel(str(package), skip_model_load=True).get_spec()
    weights = str(package / "Data" / "com.apple.CoreML" / "weights")
    function = load(spec, spec.specificationVersion, weights).functions["main"]
    values = dict(inputs)

    def value(var):
        if isinstance(var, list | tuple):
            return [value(v) for v in var]
        if var.name in values:
            return values[var.name]
        found = var.val
        if isinstance(found, str | bool | int | float):
            return found
        if found is None:
            return None
        return torch.as_tensor(found) if found.shape else found.item()

    for op in function.operations:
        if op.op_type == "const":
            continue
        args = {name: value(var) for name, var in op.inputs.items() if var is not None}
        values[op.outputs[0].name] = _OPERATORS[op.op_type](args)
    return [values[var.name] for var in function.outputs]


def _numbers(x):
    return [int(n) for n in x]


def _padded(a, x):
    if a.get("pad_type", "valid") == "valid":
        return x
    assert a["pad_type"] == "custom"
    before = _numbers(a["pad"])
    flipped = [n for axis in reversed(range(len(before) // 2)) for n in before[2 * axis :][:2]]
    return F.pad(x, flipped)


def _conv(a):
    weight = a["weight"]
    conv = F.conv1d if weight.dim() == 3 else F.conv2d
    more = _numbers(a["strides"]), 0, _numbers(a["dilations"]), int(a.get("groups", 1))
    return conv(_padded(a, a["x"]), weight, a.get("bias"), *more)


def _conv_transpose(a):
    weight, rank = a["weight"], a["weight"].dim() - 2
    conv = F.conv_transpose1d if rank == 1 else F.conv_transpose2d
    groups, dilations = int(a.get("groups", 1)), _numbers(a["dilations"])
    y = conv(a["x"], weight, a.get("bias"), _numbers(a["strides"]), 0, 0, groups, dilations)
    pad = _numbers(a["pad"]) if a["pad_type"] == "custom" else [0] * (2 * rank)
    wanted = _numbers(a["output_shape"])[2:] if a.get("output_shape") is not None else None
    for axis in range(rank):
        size = y.shape[2 + axis] - pad[2 * axis] - pad[2 * axis + 1]
        size = size if wanted is None else wanted[axis]
        y = y.narrow(2 + axis, pad[2 * axis], size)
    return y


def _crop(a):
    y = a["x"]
    for axis, name in ((2, "crop_height"), (3, "crop_width")):
        first, last = _numbers(a[name])
        y = y.narrow(axis, first, y.shape[axis] - first - last)
    return y


def _pad(a):
    sides = _numbers(a["pad"])
    flipped = [n for axis in reversed(range(len(sides) // 2)) for n in sides[2 * axis :][:2]]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}[a["mode"]]
    if mode == "constant":
        return F.pad(a["x"], flipped, value=float(a["constant_val"]))
    while flipped[-2:] == [0, 0] and len(flipped) > 4:
        del flipped[-2:]
    return F.pad(a["x"], flipped, mode)


def _norm(a):
    scale, shift = a.get("gamma"), a.get("beta")
    return F.instance_norm(a["x"], weight=scale, bias=shift, eps=float(a["epsilon"]))


def _upsampled(a):
    factors = [float(a["scale_factor_height"]), float(a["scale_factor_width"])]
    return F.interpolate(a["x"], scale_factor=factors, mode="nearest")


def _sliced(a):
    x = a["x"]
    rank = x.dim()

    def flags(name):
        return [bool(b) for b in a[name]] if a.get(name) is not None else [False] * rank

    steps = _numbers(a["stride"]) if a.get("stride") is not None else [1] * rank
    whole = zip(_numbers(a["begin"]), _numbers(a["end"]), steps, strict=True)
    masks = zip(flags("begin_mask"), flags("end_mask"), flags("squeeze_mask"), strict=True)
    places = tuple(
        begin if squeezed else slice(None if first else begin, None if last else end, step)
        for (begin, end, step), (first, last, squeezed) in zip(whole, masks, strict=True)
    )
    return x[places]


def _expanded(a):
    y, axes = a["x"], _numbers(a["axes"])
    for axis in sorted(axis % (y.dim() + len(axes)) for axis in axes):
        y = y.unsqueeze(axis)
    return y


def _product(a):
    x, y = (a[n].mT if a.get(f"transpose_{n}") else a[n] for n in "xy")
    return x @ y


_KINDS = {"fp16": torch.float16, "fp32": torch.float32}
_OPERATORS = {
    "add": lambda a: a["x"] + a["y"],
    "cast": lambda a: a["x"].to(_KINDS[a["dtype"]]),
    "concat": lambda a: torch.cat(a["values"], int(a["axis"])),
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "crop": _crop,
    "instance_norm": _norm,
    "leaky_relu": lambda a: F.leaky_relu(a["x"], float(a["alpha"])),
    "exp": lambda a: a["x"].exp(),
    "expand_dims": _expanded,
    "fill_like": lambda a: torch.full_like(a["ref_tensor"], float(a["value"])),
    "matmul": _product,
    "mul": lambda a: a["x"] * a["y"],
    "pad": _pad,
    "pixel_shuffle": lambda a: F.pixel_shuffle(a["x"], int(a["upscale_factor"])),
    "prelu": lambda a: F.prelu(a["x"], a["alpha"]),
    "real_div": lambda a: a["x"] / a["y"],
    "relu": lambda a: F.relu(a["x"]),
    "reshape": lambda a: a["x"].reshape(_numbers(a["shape"])),
    "sin": lambda a: a["x"].sin(),
    "cos": lambda a: a["x"].cos(),
    "slice_by_index": _sliced,
    "squeeze": lambda a: a["x"].squeeze(_numbers(a["axes"])),
    "stack": lambda a: torch.stack(a["values"], int(a["axis"])),
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: torch.tanh(a["x"]),
    "transpose": lambda a: a["x"].permute(_numbers(a["perm"])),
    "upsample_nearest_neighbor": _upsampled,
}
