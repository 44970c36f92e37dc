"""Train the levels of codebooks, with no labels: which weight takes which level stays.

Han, Mao, Dally: Deep Compression (ICLR 2016), section 3.3: the gradient of a level is the sum of
the gradients of the weights that share it. The teacher is the float original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.compact_codebook import best_grouping
from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.weights import with_weights
from leangan.techniques.codebook.feedback import one_thread
from leangan.techniques.codebook.layers import affordable, find_layers
from leangan.techniques.order import refuse_quantized

Samples = Sequence[tuple[Tensor, ...]]
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
    halves: bool
    """Whether bfloat16 holds all levels, so that the file stores two bytes of each."""

    @property
    def scale(self) -> Tensor:
        """The root mean square of the levels: steps are in shares of it."""
        return self.levels.square().mean().sqrt()

    def weight(self, change: Tensor) -> Tensor:
        """The weight with its levels moved by `change`, in shares of the scale; zero stays zero."""
        moved = torch.where(self.levels == 0, 0.0, self.levels + self.scale * change)
        return moved[self.indices]

    def stored(self, change: Tensor) -> Tensor:
        """As `weight`, of levels that the file holds as short as before."""
        weight = self.weight(change.detach())
        return weight.to(torch.bfloat16).float() if self.halves else weight


def finetune_centroids(
    generator: Generator,
    original: Generator,
    data: Samples,
    *,
    steps: int = 200,
    lr: float = 3e-4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Generator:
    """Train the levels of all codebooks until the output is nearer to the original's.

    The loss is the mean squared error of the outputs; Adam (Kingma and Ba 2015) takes one sample
    a step, its rate falling to zero along a cosine. Zeros stay zero, so that a pruned generator
    stays pruned, and the file is as small as before. What is not in a codebook is left alone. On
    the data the result is never worse than what it was made of.

    Args:
        generator: with weights of few values, as `codebook` makes them.
        original: the float generator that it was made of, or any with the same inputs and outputs.
        data: inputs, cropped and left out as far as they would take too long.
        steps: 1 or more.
        lr: the first step's size, in shares of the root mean square of a weight's levels.
        seed: of the order of the samples. The same seed gives the same bytes.
        progress: called with (steps done, steps in all).

    Returns:
        The generator, its step "finetune_centroids" with the mean squared error before and after.

    Raises:
        UsageError: a setting makes no sense, data is empty, or no weight has few values.
        LeanganError: the outputs of the two generators differ in shape.
    """
    if steps < 1 or not lr > 0:
        raise UsageError(
            f"Levels are trained for 1 step or more at a rate above 0; {steps=}, {lr=}."
        )
    if not data:
        raise UsageError("Levels are trained on data, and it is empty.")
    refuse_quantized(generator, "Train levels")
    module = generator.module()
    books = find_books(generator, module)
    if not books:
        raise UsageError(f"{generator.name} has no weights of few values: make codebooks first.")
    with one_thread():
        samples = affordable(generator, data)
        wanted = [original.outputs(*inputs) for inputs in samples]
        _check_shapes(generator, samples[0], wanted[0])
        before = _error(module, {}, samples, wanted)
        changes = _train(module, books, samples, wanted, steps, lr, seed, progress)
        new = {book.path: book.stored(change) for book, change in zip(books, changes, strict=True)}
        after = _error(module, new, samples, wanted)
    better = after < before
    settings = {"steps": steps, "lr": lr, "seed": seed, "data": len(data)}
    measured = {"mse_before": before, "mse_after": after if better else before}
    step = Step("finetune_centroids", settings, measured)
    return generator.then(with_weights(generator, new if better else {}), step)


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
        if _FEW * sum(map(len, books)) > values.size:
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
                not (bits & 0xFFFF).any(),
            )
        )
    return found


def _train(
    module: GraphModule,
    books: Sequence[Book],
    samples: Samples,
    wanted: Samples,
    steps: int,
    lr: float,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[Tensor]:
    """How far each level moves, in shares of its book's scale."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    changes = [torch.zeros_like(book.levels).requires_grad_() for book in books]
    adam = torch.optim.Adam(changes, lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    rng = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in range(steps):
        order = order or torch.randperm(len(samples), generator=rng).tolist()
        one = order.pop()
        weights = {b.path: b.weight(c) for b, c in zip(books, changes, strict=True)}
        loss = _loss(module, weights, samples[one], wanted[one])
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
        if progress is not None:
            progress(step + 1, steps)
    return changes


def _loss(
    module: GraphModule,
    weights: dict[str, Tensor],
    inputs: tuple[Tensor, ...],
    wanted: tuple[Tensor, ...],
) -> Tensor:
    made = torch.func.functional_call(module, weights, inputs)
    outputs = made if isinstance(made, tuple | list) else (made,)
    errors = [(a - b).square().mean() for a, b in zip(outputs, wanted, strict=True)]
    return torch.stack(errors).sum()


def _error(
    module: GraphModule, weights: dict[str, Tensor], samples: Samples, wanted: Samples
) -> float:
    with torch.no_grad():
        losses = [_loss(module, weights, *pair) for pair in zip(samples, wanted, strict=True)]
    return float(torch.stack(losses).double().mean())


def _check_shapes(
    generator: Generator, inputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]
) -> None:
    made = [tuple(t.shape) for t in generator.outputs(*inputs)]
    other = [tuple(t.shape) for t in wanted]
    if made != other:
        raise LeanganError(
            f"{generator.name} puts out {made} and the original {other}: levels can only be "
            "trained towards a generator of the same outputs."
        )
