"""Compress and accelerate trained GAN generators, with measured proof of their quality.

>>> import leangan as lg
>>> generator = lg.load("zoo:dcgan-faces")              # doctest: +SKIP
>>> report = lg.compress(generator, None, "out")        # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from leangan.errors import LeanganError
    from leangan.generator import Generator, Port, Signature
    from leangan.search.compare import bench, evaluate
    from leangan.search.export import export
    from leangan.search.pipeline import compress
    from leangan.search.prune import prune
    from leangan.search.train import distill, finetune
    from leangan.sources import load
    from leangan.sources.transplant import transplant
    from leangan.techniques.calibrate import calibrate
    from leangan.techniques.codebook import codebook
    from leangan.techniques.prune_channels import prune_channels
    from leangan.techniques.prune_weights import prune_weights
    from leangan.techniques.quantize_linear import quantize
    from leangan.training.settings import TrainSettings

__all__ = [
    "Generator",
    "LeanganError",
    "Port",
    "Signature",
    "TrainSettings",
    "bench",
    "calibrate",
    "codebook",
    "compress",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "load",
    "prune",
    "prune_channels",
    "prune_weights",
    "quantize",
    "transplant",
]

_HOMES = {
    "Generator": "leangan.generator",
    "Port": "leangan.generator",
    "Signature": "leangan.generator",
    "LeanganError": "leangan.errors",
    "load": "leangan.sources",
    "calibrate": "leangan.techniques.calibrate",
    "codebook": "leangan.techniques.codebook",
    "prune_channels": "leangan.techniques.prune_channels",
    "prune_weights": "leangan.techniques.prune_weights",
    "quantize": "leangan.techniques.quantize_linear",
    "transplant": "leangan.sources.transplant",
    "compress": "leangan.search.pipeline",
    "prune": "leangan.search.prune",
    "TrainSettings": "leangan.training.settings",
    "distill": "leangan.search.train",
    "finetune": "leangan.search.train",
    "evaluate": "leangan.search.compare",
    "bench": "leangan.search.compare",
    "export": "leangan.search.export",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch alone takes two seconds, which `--help` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'leangan' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
