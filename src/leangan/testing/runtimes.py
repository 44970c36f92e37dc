"""Base test case of a runtime.

Subclass it in your tests and name your runtime:

    class TestMine(RuntimeTestCase):
        runtime = MyRuntime()

A runtime that the worker process must find by name has to be registered, by `leangan.runtimes`
or by an entry point.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from leangan.errors import LeanganError
from leangan.generator import Generator, Port, Signature, Step
from leangan.graph.capture import capture, quiet
from leangan.graph.rewrite import recapture, tidy
from leangan.measure.latency import Worker
from leangan.measure.size import file_bytes, zipped_bytes
from leangan.runtimes import Artifact, Runtime, fitting
from leangan.runtimes.check import agree


class TinyNet(nn.Module):
    """An image-to-image network with what runtimes treat differently; sizes are multiples of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.body = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1)
        self.last = nn.Conv2d(16, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 3, 2H, 2W], in [-1, 1]."""
        x = F.relu(self.norm(self.down(x)))
        x = self.up(x + self.body(x))
        return torch.tanh(F.pixel_shuffle(self.last(F.pad(x, (1, 1, 1, 1), mode="reflect")), 2))


@functools.cache
def tiny_generator() -> Generator:
    """A float image-to-image generator, x2, with free batch, height and width."""
    torch.manual_seed(0)
    program = capture(TinyNet(), [torch.randn(2, 3, 32, 36)], [[0, 2, 3]])
    image = Port(
        "image", "image", "NCHW", (None, 3, None, None), (1, 3, 32, 32), (-1.0, 1.0), (1, 1, 2, 2)
    )
    result = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 64, 64), (-1.0, 1.0))
    return Generator(program, Signature((image,), (result,)), name="tiny")


@functools.cache
def tiny_int8_generator() -> Generator:
    """`tiny_generator` with its Conv2d and Linear layers in 8 bits."""
    generator = tiny_generator()
    with quiet(), torch.no_grad():
        module = prepare_pt2e(generator.module(), _MinMaxQuantizer())
        for seed in range(4):
            module(*generator.example(seed=seed))
        module = convert_pt2e(module)
    tidy(module)
    return recapture(generator, module, Step("quantize"))


class _MinMaxQuantizer(Quantizer):  # type: ignore[misc]
    """The plainest there is: it serves the tests of runtimes, not anybody's pictures."""

    def annotate(self, model: Any) -> Any:
        activation = QuantizationSpec(
            torch.uint8,
            MinMaxObserver,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
        )
        weight = QuantizationSpec(
            torch.int8,
            PerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        for node in model.graph.nodes:
            if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    {node.args[0]: activation, node.args[1]: weight}, _annotated=True
                )
        return model

    def validate(self, model: Any) -> None:
        pass


class RuntimeTestCase:
    """What every runtime must do, on a tiny generator, float and (where it can) int8."""

    runtime: ClassVar[Runtime]
    int8: ClassVar[bool] = True
    """Whether it must run some of the compute in 8 bits."""

    @pytest.fixture(autouse=True)
    def _usable(self) -> None:
        missing = self.runtime.missing()
        if missing:
            pytest.skip(missing)

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Narrow this down where one of them takes long."""
        return self.runtime.precisions(quantized=quantized)

    def generator(self, *, quantized: bool) -> Generator:
        """The tiny one, at one size where the runtime needs that."""
        return fitting(tiny_int8_generator() if quantized else tiny_generator(), self.runtime)

    def test_float(self, tmp_path: Path) -> None:
        """Built, opened in a fresh process, equal at three sizes, in every float precision."""
        precisions = self.precisions(quantized=False)
        assert precisions[0] == "fp32"
        for precision in precisions:
            self._build_and_agree(self.generator(quantized=False), tmp_path / precision, precision)

    def test_int8(self, tmp_path: Path) -> None:
        """The same in 8 bits, and it tells that some of the work really runs so."""
        precisions = self.precisions(quantized=True)
        assert bool(precisions) == self.int8
        for precision in precisions:
            assert precision.startswith("int8")
            generator = self.generator(quantized=True)
            share = self._build_and_agree(generator, tmp_path / precision, precision)
            assert share is not None
            assert 0 < share <= 1

    def test_unknown_precision_is_refused(self, tmp_path: Path) -> None:
        """By name, before anything is written."""
        with pytest.raises(LeanganError, match="int3"):
            self.runtime.build(self.generator(quantized=False), tmp_path, "int3")
        assert not list(tmp_path.iterdir())

    def test_damaged_file_is_one_sentence(self, tmp_path: Path) -> None:
        """A file cut short is an error of ours, of one line."""
        artifact = self.runtime.build(self.generator(quantized=False), tmp_path, "fp32")
        artifact.path.write_bytes(artifact.path.read_bytes()[:200])
        with pytest.raises(LeanganError) as caught:
            Worker(artifact, 1)
        assert len(str(caught.value).splitlines()) == 1

    def test_session_in_this_process(self, tmp_path: Path) -> None:
        """The user's own program opens it without a worker."""
        generator = self.generator(quantized=False)
        artifact = self.runtime.build(generator, tmp_path, "fp32")
        session = self.runtime.open(artifact, 1)
        inputs = generator.example({"H": 34, "W": 30})
        kept = inputs[0].clone()
        (first,) = session.run([t.numpy() for t in inputs])
        before = first.copy()
        session.run([t.numpy() * 0 for t in inputs])
        assert np.array_equal(first, before), "an output must not change in a later run"
        assert torch.equal(inputs[0], kept), "an input must not change"
        assert first.dtype == np.float32
        assert first.shape == ((1, 3, 68, 60) if self.runtime.free_sizes else (1, 3, 64, 64))

    def _build_and_agree(self, generator: Generator, folder: Path, precision: str) -> float | None:
        folder.mkdir()
        artifact = self.runtime.build(generator, folder, precision)
        assert artifact.runtime == self.runtime.name
        assert artifact.precision == precision
        assert {f.resolve() for f in folder.iterdir()} == {f.resolve() for f in artifact.files}
        assert Artifact.from_json(artifact.to_json()) == artifact
        assert 0 < zipped_bytes(artifact) < file_bytes(artifact)
        with Worker(artifact, 1) as worker:
            found = agree(generator, artifact, worker)
            assert len({a.size for a in found}) == (3 if self.runtime.free_sizes else 1)
            assert all(math.isfinite(a.largest_difference) for a in found)
            share = worker.int8_share()
            assert share is None or 0 <= share <= 1
            if not artifact.in_8_bits:
                assert not share
            times = worker.layer_times()
            assert all(isinstance(name, str) and ms >= 0 for name, ms in times.items())
            assert worker.peak_memory() > 0
            return share
