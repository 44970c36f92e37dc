"""A generator while it is trained: its graph, live, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from leangan.errors import UsageError
from leangan.generator import Generator, Step
from leangan.graph.rewrite import recapture, set_tensor, views_as_reshapes
from leangan.graph.weights import stored_weights, with_weights
from leangan.techniques.codebook.books import find_books
from leangan.training.fake_quant import insert_rounding, write_back
from leangan.training.forms import Form, Levels, Masked
from leangan.training.norms import norms_by_sample

_SPARSE = 0.05
"""A weight with more zeros than this was pruned, and keeps them."""


class Student(nn.Module):
    """The trainable form of a generator; what was done to its weights stays done.

    Zeros of pruned weights stay zero, codebooks keep their indices and learn their levels, layers
    with quantize and dequantize operators learn through their rounding. All else is free.
    """

    def __init__(self, generator: Generator, *, prunable: bool = False) -> None:
        """A live copy: the generator itself is left as it is.

        Args:
            generator: any that has float weights, or integers of ours.
            prunable: hold the weights of all layers so that they can be cut on the way.

        Raises:
            UsageError: it holds no weight that could be trained.
        """
        super().__init__()
        self.generator = generator
        self.graph = generator.module()
        views_as_reshapes(self.graph)
        if not torch.cuda.is_available():
            norms_by_sample(self.graph)
        if not any(p.dtype.is_floating_point for p in self.graph.parameters()):
            raise UsageError(f"{generator.name} has no weights that could be trained.")
        # A quantized graph holds integers where others hold such weights.
        self.rounded = insert_rounding(self.graph) if generator.quantized else 0
        forms: list[Form] = [] if self.rounded else list(_held(generator, self.graph, prunable))
        self._forms = nn.ModuleList(forms)
        held = {form.path for form in forms}
        for path, parameter in self.graph.named_parameters():
            parameter.requires_grad_(parameter.is_floating_point() and path not in held)

    @property
    def forms(self) -> list[Form]:
        """The weights that are made of something else than themselves."""
        return [form for form in self._forms if isinstance(form, Form)]

    @property
    def what(self) -> dict[str, int]:
        """How many weights are of which kind, for people."""
        kinds = {
            "pruned weights": sum(isinstance(f, Masked) for f in self.forms),
            "codebooks": sum(isinstance(f, Levels) for f in self.forms),
            "roundings": self.rounded,
        }
        return {kind: count for kind, count in kinds.items() if count}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """As the generator: one tensor per output of the signature."""
        made = {form.path: form() for form in self.forms}
        outputs = torch.func.functional_call(self.graph, made, inputs)
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)

    def finished(self, step: Step) -> Generator:
        """The generator that the present weights make, with `step` in its history."""
        if self.rounded:
            module = self.generator.module()
            write_back(self.graph, module)
            for path, parameter in self.graph.named_parameters():
                if path in dict(module.named_parameters()):
                    set_tensor(module, path, parameter.detach().clone())
            return recapture(self.generator, module, step)
        new = {
            path: parameter.detach().clone(memory_format=torch.contiguous_format)
            for path, parameter in self.graph.named_parameters()
            if parameter.requires_grad
        }
        new |= {form.path: form.stored().contiguous() for form in self.forms}
        return self.generator.then(with_weights(self.generator, new), step)


def _held(generator: Generator, module: GraphModule, prunable: bool) -> Iterable[Form]:
    """What must not become a free weight again."""
    books = {book.path: book for book in find_books(generator, module)}
    for weight in stored_weights(generator, module):
        if weight.path in books:
            yield Levels(books[weight.path])
        elif prunable or float((weight.tensor == 0).float().mean()) > _SPARSE:
            yield Masked(weight.path, weight.tensor)
