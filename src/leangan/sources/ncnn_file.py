"""A `.param` file with its `.bin` beside it, as ncnn's tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.sources.base import Request
from leangan.sources.module import from_module
from leangan.sources.ncnn import read_ncnn
from leangan.sources.ncnn_module import NcnnModule


def accepts(source: Any) -> bool:
    """Whether it names a `.param` or `.bin` file of such a pair."""
    path = Path(source) if isinstance(source, str | Path) else None
    return path is not None and (
        path.suffix == ".param" or (path.suffix == ".bin" and path.with_suffix(".param").is_file())
    )


def load(source: Any, request: Request) -> Generator:
    """Read the pair; `request.weights` names a `.bin` of another name.

    Raises:
        LeanganError: see `read_ncnn` and `NcnnModule`.
    """
    param = Path(source).with_suffix(".param")
    request.only_generator(str(param))
    module = NcnnModule(read_ncnn(param, request.weights or param.with_suffix(".bin")))
    examples = request.example_inputs or (torch.rand(1, input_channels(module), 64, 64),)
    return from_module(
        module,
        examples,
        name=param.stem,
        task=request.task,
        kinds=request.kinds,
        ranges=request.ranges,
    )


def input_channels(module: NcnnModule) -> int:
    """The number of channels that the first convolution reads.

    Raises:
        LeanganError: the network has no convolution to tell it.
    """
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            return layer.in_channels
    raise LeanganError("This ncnn network has no convolution: give example inputs.")
