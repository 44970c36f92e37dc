"""Exact rewrites that one runtime likes and another may not: each is measured before it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from leangan.generator import Generator
from leangan.graph.blocks import outputs_as_blocks
from leangan.graph.conv1d import conv1d_as_2d
from leangan.graph.joins import joins_as_sums
from leangan.graph.phases import latent_as_linear, transposed_as_phases
from leangan.graph.rewrite import Rewrite
from leangan.graph.shuffle import sink_shuffle
from leangan.graph.shuffle_order import shuffle_by_phase
from leangan.graph.transposed import transposed_as_shuffle, upsample_as_shuffle
from leangan.graph.winograd import winograd_rows

DOOR_REWRITES: dict[str, Rewrite] = {
    "conv1d-as-2d": conv1d_as_2d,
    "latent-as-linear": latent_as_linear,
    "transposed-as-phases": transposed_as_phases,
    "transposed-as-shuffle": transposed_as_shuffle,
    "upsample-as-shuffle": upsample_as_shuffle,
    "sink-shuffle": sink_shuffle,
    "outputs-as-blocks": outputs_as_blocks,
    "shuffle-by-phase": shuffle_by_phase,
    "winograd-rows": winograd_rows,
    "joins-as-sums": joins_as_sums,
}
"""By the name of the step in the history, in the order in which they feed each other. Each
returns its argument itself when it finds nothing to do."""

ALTERNATIVES = {"transposed-as-shuffle": "transposed-as-phases"}
"""Rewrites of the same operators: one leaves nothing to the other, so that the later must also be
tried on what the earlier started from."""

THEN = dict.fromkeys(("transposed-as-shuffle", "upsample-as-shuffle"), "shuffle-by-phase")
"""What makes shuffles is tried with them in the order that CPUs copy fastest: without, it rarely
pays."""

FLOAT_ONLY = frozenset({"winograd-rows", "joins-as-sums"})
"""In 8 bits each part of a sum would have a scale of its own, and the sum be rounded."""

FREE_IN_8_BITS = frozenset({"shuffle-by-phase"})
"""What pays in float pays there too: the multiplications are the same, and bytes are copied."""


def rewritten(
    original: Generator, names: Sequence[str], made: Iterable[Generator] = ()
) -> Generator:
    """The generator with rewrites in turn.

    Args:
        original: is left as it is.
        names: of rewrites.
        made: forms that stem from `original`. Each rewrite is exported and proved, which takes
            seconds: what one of these already has of them is not done again.
    """
    best, done = original, 0
    for form in made:
        steps = tuple(step.name for step in form.history[len(original.history) :])
        if len(steps) > done and steps == tuple(names[: len(steps)]):
            best, done = form, len(steps)
    for name in names[done:]:
        best = DOOR_REWRITES[name](best)
    return best
