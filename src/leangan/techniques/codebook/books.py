"""Weights of few values as what they are made of: levels, and the index of each element's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.compact_codebook import best_grouping
from leangan.generator import Generator
from leangan.techniques.codebook.layers import find_layers

_FEW = 2
"""A level is one that so many weights share on average; otherwise they are plain floats."""


@dataclass(frozen=True)
class Book:
    """A weight as levels and the index of each element's."""

    path: str
    levels: Tensor
    """float32 (levels,), of all groups one after the other."""
    indices: Tensor
    """int64, of the weight's shape."""
    parting: tuple[int, int, int]
    """The weight's elements in order as (outer, groups, inner): each group has levels of its
    own."""
    counts: tuple[int, ...]
    """Levels of each group."""
    halves: bool
    """Whether bfloat16 holds all levels, so that the file stores two bytes of each."""


def find_books(generator: Generator, module: GraphModule) -> list[Book]:
    """The weights of layers that have few different values per group of channels."""
    found = []
    for layer in find_layers(generator, module, None):
        if layer.weight.dtype != torch.float32:
            continue
        values = layer.weight.contiguous().numpy()
        grouping = best_grouping(values.view(np.uint32).reshape(-1), values.shape)
        if grouping is None:
            continue
        parting, books = grouping
        # Zeros are shared by many in every pruned weight.
        used = sum(int((np.ascontiguousarray(b).view(np.float32) != 0).sum()) for b in books)
        if _FEW * used > np.count_nonzero(values):
            continue
        lined = values.view(np.uint32).reshape(parting)
        indices = np.empty(parting, np.int64)
        first = 0
        for group, book in enumerate(books):
            indices[:, group] = first + np.searchsorted(book, lined[:, group])
            first += len(book)
        bits = np.concatenate(books)
        found.append(
            Book(
                layer.path,
                torch.from_numpy(bits.view(np.float32).copy()),
                torch.from_numpy(indices.reshape(values.shape)),
                parting,
                tuple(map(len, books)),
                not (bits & 0xFFFF).any(),
            )
        )
    return found
