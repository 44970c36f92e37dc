"""Students out of the teacher's own graph, by changes that training then has to make up for."""

from __future__ import annotations

from collections.abc import Callable

from leangan.generator import Generator
from leangan.techniques.lighten.attention import drop_attention
from leangan.techniques.lighten.factorize import grouped, low_rank, separable, spatial, tucker
from leangan.techniques.lighten.half_ends import half_ends
from leangan.techniques.lighten.norms import freeze_norms
from leangan.techniques.lighten.resize import resize
from leangan.techniques.lighten.shallow import drop_blocks
from leangan.techniques.lighten.split import Samples
from leangan.techniques.lighten.stacked import stacked

LIGHTER: dict[str, Callable[[Generator, float, Samples], Generator]] = {
    "shallow": drop_blocks,
    "low-rank": low_rank,
    "tucker": tucker,
    "grouped": grouped,
    "spatial": spatial,
    "stacked": stacked,
}
"""By name; each leaves a share of the multiply-accumulates, or of what can be changed."""
WHOLE: dict[str, Callable[[Generator, Samples], Generator]] = {
    "separable": separable,
    "plain-norms": freeze_norms,
    "no-attention": drop_attention,
    "resize": lambda generator, samples: resize(generator),
    "half-ends": half_ends,
}
"""Those that take no amount."""

__all__ = [
    "LIGHTER",
    "WHOLE",
    "drop_attention",
    "drop_blocks",
    "freeze_norms",
    "grouped",
    "half_ends",
    "low_rank",
    "resize",
    "separable",
    "spatial",
    "stacked",
    "tucker",
]
