"""A live nn.Module, or a whole GAN that holds generator and discriminator as attributes."""

from __future__ import annotations

from typing import Any

from torch import nn

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.sources.base import Request
from leangan.sources.checkpoint import load_weights
from leangan.sources.module import from_module

_NAMES = {
    "generator": ("generator_ema", "netG_ema", "G_ema", "generator", "netG", "G", "gen"),
    "discriminator": ("discriminator", "netD", "D", "disc"),
}


def accepts(source: Any) -> bool:
    """Whether it is a module."""
    return isinstance(source, nn.Module)


def load(source: Any, request: Request) -> Generator:
    """Capture the module, or the wanted part of it.

    Raises:
        UsageError: no example inputs, or no such part.
        LeanganError: see `from_module`.
    """
    module = part_of(source, request.part)
    if request.weights is not None:
        load_weights(module, request.weights, part=request.part, trust=request.trust)
    return from_module(
        module,
        request.example_inputs,
        name=type(module).__name__,
        task=request.task,
        kinds=request.kinds,
        ranges=request.ranges,
    )


def part_of(module: nn.Module, part: str) -> nn.Module:
    """The generator or discriminator inside of a GAN; a plain generator is itself one.

    Raises:
        UsageError: the module has no such part.
    """
    children = dict(module.named_children())
    parts = {
        p: next((children[name] for name in names if name in children), None)
        for p, names in _NAMES.items()
    }
    if part == "generator" and (parts["generator"] is None or parts["discriminator"] is None):
        return module
    found = parts.get(part)
    if found is None:
        raise UsageError(
            f"{type(module).__name__} has no {part}: none of its parts "
            f"({', '.join(children) or 'it has none'}) is called {', '.join(_NAMES.get(part, ()))}."
        )
    return found
