"""Weights as indices into codebooks of few levels: non-linear quantization."""

from __future__ import annotations

from leangan.techniques.codebook.quantize_codebook import codebook

__all__ = ["codebook"]
