"""Random numbers that a network draws while it runs, drawn once: StyleGAN's noise and its like."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def drawn_once(module: nn.Module) -> Iterator[None]:
    """Let every run of `module` in the block draw the same numbers, as a graph must.

    A batch shares them: the first axis of what is drawn is drawn once. StyleGAN2's own code calls
    this constant noise (Karras et al. 2020).
    """
    usual = module.forward

    @functools.wraps(usual)
    def forward(*inputs: Tensor) -> Any:
        with _Drawn():
            return usual(*inputs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


class _Drawn(TorchFunctionMode):
    """Numbers that depend only on how many tensors of them were asked for before."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.rand):
            size = kwargs.get("size", args)
            return self.draw(size[0] if isinstance(size[0], Sequence) else size, func)
        if func in (torch.randn_like, torch.rand_like):
            return self.draw(args[0].shape, func)
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            x, a, b = _bounds(*args, **kwargs)
            spread = b if func is torch.Tensor.normal_ else b - a
            return x.copy_(self.draw(x.shape, func, spread, a))
        return func(*args, **kwargs)

    def draw(
        self, shape: Sequence[Any], kind: Any, spread: float = 1.0, shift: float = 0.0
    ) -> Tensor:
        self.count += 1
        # A size that is free beyond the batch becomes a number here.
        fixed = [1 if axis == 0 and len(shape) > 1 else int(n) for axis, n in enumerate(shape)]
        rng = np.random.default_rng(self.count)
        uniform = kind in (torch.rand, torch.rand_like, torch.Tensor.uniform_)
        made = rng.random(fixed) if uniform else rng.standard_normal(fixed)
        # Not a tensor of torch's making, which an export would trace.
        return torch.from_numpy((made * spread + shift).astype(np.float32)).expand(shape)


def _bounds(x: Tensor, *two: float, **named: Any) -> tuple[Tensor, float, float]:
    """The tensor, and mean and deviation or both ends."""
    a = named.get("mean", named.get("from", 0.0))
    b = named.get("std", named.get("to", 1.0))
    return x, *two[:2], *(a, b)[len(two) :]
