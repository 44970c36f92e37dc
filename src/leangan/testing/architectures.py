"""What every architecture family must pass, ours and third parties'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from leangan import architectures
from leangan.architectures.base import Architecture, fit
from leangan.generator import Port
from leangan.graph.capture import capture, input_shapes, output_shapes


class ArchitectureTests:
    """Inherit, and set `family` and `cases`: a few sets of arguments that make small networks."""

    family: ClassVar[Architecture]
    cases: ClassVar[tuple[Mapping[str, Any], ...]]
    sizes: ClassVar[Mapping[str, int]] = {"N": 2, "H": 32, "W": 48, "T": 20}
    """Valid sizes for the free axes of the inputs, all different, 2 or more."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Names without which the weights are those of another network of the family."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per set of arguments; for what takes seconds, the first set alone."""
        for fixture, cases in (("case", self.cases), ("first_case", self.cases[:1])):
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, cases, ids=[str(c or "default") for c in cases])

    def test_is_recognised(self, case: Mapping[str, Any]) -> None:
        """The state dict alone gives back the family and the arguments, in the registry too."""
        state = self.build(case).state_dict()
        read = self.family.recognise(state)
        assert read is not None
        assert {name: read[name] for name in case} == dict(case)
        assert fit(self.family, read, state) == 1
        found = architectures.try_recognise(state)
        assert found is not None
        assert found[0] is self.family
        assert found[1] == read

    def test_one_missing_key_does_not_fit(self, case: Mapping[str, Any]) -> None:
        """A damaged file must never pass for a whole one."""
        state = self.build(case).state_dict()
        for lost in state:
            if lost.endswith("num_batches_tracked") or lost in self.optional:
                continue
            rest = {name: tensor for name, tensor in state.items() if name != lost}
            read = self.family.recognise(rest)
            assert read is None or fit(self.family, read, rest) < 1, lost

    def test_ports_tell_the_shapes(self, case: Mapping[str, Any]) -> None:
        """It runs at the sizes of its ports and puts out what they say, in their range."""
        module = self.build(case)
        inputs, outputs = self.family.ports(**self.read(module))
        examples = [
            _example(p, {**dict(zip(p.layout, p.typical, strict=True)), "N": 1}) for p in inputs
        ]
        with torch.no_grad():
            results = _tuple(module(*examples))
        assert len(results) == len(outputs)
        for port, result in zip(outputs, results, strict=True):
            assert tuple(result.shape[1:]) == port.typical[1:]
            assert all(f in (None, s) for f, s in zip(port.shape, result.shape, strict=True))

    def test_is_captured_with_free_sizes(self, first_case: Mapping[str, Any]) -> None:
        """It exports, keeps free what its ports call free, and computes the same at a new size."""
        module = self.build(first_case)
        inputs, outputs = self.family.ports(**self.read(module))
        examples = [_example(port, self.sizes) for port in inputs]
        free = [[a for a, s in enumerate(port.shape) if s is None] for port in inputs]
        program = capture(module, examples, free)
        assert input_shapes(program) == [port.shape for port in inputs]
        assert output_shapes(program) == [port.shape for port in outputs]
        larger = {letter: 2 * size for letter, size in self.sizes.items()}
        again = [_example(port, larger) for port in inputs]
        run = program.module(check_guards=False)
        with torch.no_grad():
            pairs = zip(_tuple(module(*again)), _tuple(run(*again)), strict=True)
            for ours, theirs in pairs:
                assert torch.allclose(ours, theirs, atol=1e-5)

    def build(self, case: Mapping[str, Any]) -> nn.Module:
        """The network of a case, with random weights and statistics, in eval mode."""
        torch.manual_seed(0)
        module = self.family.build(**case).eval()
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        return module

    def read(self, module: nn.Module) -> dict[str, Any]:
        """The arguments as they are read off the module's state dict."""
        read = self.family.recognise(module.state_dict())
        assert read is not None
        return read


def _example(port: Port, sizes: Mapping[str, int]) -> Tensor:
    shape = [
        fixed if fixed is not None else sizes[letter]
        for letter, fixed in zip(port.layout, port.shape, strict=True)
    ]
    rng = torch.Generator().manual_seed(1)
    if port.range is None:
        return torch.randn(shape, generator=rng)
    low, high = port.range
    return torch.rand(shape, generator=rng) * (high - low) + low


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)
