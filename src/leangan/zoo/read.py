"""Make a Generator of an entry's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from leangan.architectures import architecture
from leangan.architectures.base import super_resolution_ports
from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Port
from leangan.sources.base import Request
from leangan.sources.known import load as load_known
from leangan.sources.module import from_module
from leangan.sources.ncnn import read_ncnn
from leangan.sources.ncnn_module import NcnnModule
from leangan.zoo.entries import Entry

_STAGES = ("conv1_relu_conv1", *(f"fire{n}/concat" for n in (3, 5, 6, 7, 8, 9)))
_CHANNELS = (64, 128, 256, 384, 384, 512, 512)
_SIDES = (111, 55, 27, 13, 13, 13, 13)  # at 224x224
_MEAN_BGR = (104.0, 117.0, 123.0)


def read(entry: Entry, files: Sequence[Path]) -> Generator:
    """Read what `fetch` brought.

    Raises:
        LeanganError: the files are not what the entry says.
    """
    if entry.form == "pictures":
        raise UsageError(f"{entry.name} is no network but pictures: --data zoo:{entry.name}.")
    if entry.form == "checkpoint":
        generator = load_known(files[0], Request())
    elif entry.form == "ncnn":
        module: nn.Module = NcnnModule(read_ncnn(*files))
        inputs, outputs = super_resolution_ports(3, 3, 4, (0.0, 1.0))
        generator = from_module(module, name=entry.name, inputs=inputs, outputs=outputs)
    elif entry.form == "onnx-initializers":
        generator = _from_initializers(entry, files[0])
    else:
        generator = _squeezenet(entry, files)
    (step,) = generator.history
    origin = {"zoo": entry.name, "package": f"{entry.package}=={entry.version}"}
    step = dataclasses.replace(step, settings={**step.settings, **origin, "sha256": entry.sha256})
    return dataclasses.replace(generator, name=entry.name, task=entry.task, history=(step,))


def _from_initializers(entry: Entry, path: Path) -> Generator:
    """A known architecture whose weights are the initializers of an ONNX file, under a prefix."""
    family = architecture(entry.details["architecture"])
    module = family.build(**entry.details["arguments"])
    state = initializers(path, entry.details["prefix"])
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise LeanganError(f"{path} does not hold the weights of {entry.name}: {error}") from error
    inputs, outputs = family.ports(**entry.details["arguments"])
    return from_module(module, name=entry.name, inputs=inputs, outputs=outputs)


def initializers(path: Path, prefix: str) -> dict[str, Tensor]:
    """The float tensors stored in an ONNX file under `prefix`, which is taken off.

    Raises:
        LeanganError: it is no ONNX file.
    """
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own, which has no stubs
        raise LeanganError(f"{path} is damaged, cut short, or no ONNX file.") from error
    return {
        i.name.removeprefix(prefix): torch.from_numpy(onnx.numpy_helper.to_array(i).copy())
        for i in graph.initializer
        if i.name.startswith(prefix)
    }


def feature_network(files: Sequence[Path]) -> nn.Module:
    """The feature network alone: to capture it as a Generator takes seconds."""
    return CaffeColours(NcnnModule(read_ncnn(*files), _STAGES)).eval()


def _squeezenet(entry: Entry, files: Sequence[Path]) -> Generator:
    module = feature_network(files)
    image = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 224, 224), (0.0, 1.0))
    maps = tuple(
        Port(f"features{n}", "feature", "NCHW", (None, c, None, None), (1, c, side, side))
        for n, (c, side) in enumerate(zip(_CHANNELS, _SIDES, strict=True))
    )
    return from_module(module, name=entry.name, inputs=(image,), outputs=maps)


class CaffeColours(nn.Module):
    """A network trained on BGR in [0, 255] minus a mean, made to take RGB in [0, 1].

    Args:
        network: [N, 3, H, W] to anything.
    """

    mean: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """RGB [N, 3, H, W] in [0, 1] to what the network makes of it."""
        return self.network(image.flip(1) * 255.0 - self.mean)
