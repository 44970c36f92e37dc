"""Compress and accelerate trained GAN generators, with measured proof of their quality."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
