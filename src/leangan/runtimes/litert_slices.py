"""One SLICE for the several that cropping axis by axis, side by side, becomes."""

from __future__ import annotations

from typing import Any

import numpy as np

from leangan.runtimes.litert_file import add_constant, constant
from leangan.runtimes.litert_graph import File


def fuse_slices(model: Any) -> int:
    """Write a SLICE of a SLICE as one of what the first reads.

    Args:
        model: of `litert_file.unpack`; changed in place.

    Returns:
        The number of operators that are gone.
    """
    file, count = File(model), 0
    for last in list(file.graph.operators):
        first = file.maker(int(last.inputs[0])) if file.kind(last) == "SLICE" else None
        if first is None or file.kind(first) != "SLICE":
            continue
        outer, inner = (constant(model, int(op.inputs[1]), ("int32",)) for op in (first, last))
        if outer is None or inner is None:
            continue
        begin = add_constant(model, "", outer + inner)
        # The size that a SLICE is given may be -1, for all that is left: its output tells it.
        size = add_constant(model, "", np.array(file.shape(int(last.outputs[0])), np.int32))
        last.inputs = [first.inputs[0], begin, size]
        file.replace((first,), ())
        count += 1
    return count
