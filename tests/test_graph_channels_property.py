"""Random networks, random channels left: pruned and silenced are one."""

import os

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from leangan.graph.channels import couple
from leangan.testing.random_graphs import generator_of, inputs_of, networks, random_keep
from leangan.testing.silence import check

BY_HAND = "LEANGAN_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("LEANGAN_EXAMPLES", "20"))
"""Networks to try; each with `KEEPS` random sets of channels."""
KEEPS = 5

PROPERTY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not BY_HAND,
    # Making a failing network smaller takes minutes of exports: that is done by hand.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, *[Phase.shrink] * BY_HAND),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@PROPERTY
@given(networks(), st.integers(0, 2**16))
def test_pruned_is_silenced(network, seed):
    """At two batch sizes, on the sliced graph; one in eight is exported, saved and loaded too."""
    generator = generator_of(network)
    coupling = couple(generator)
    note(f"groups: {[(g.name, g.width) for g in coupling.groups]}")
    inputs = [inputs_of(network, 2, 8, seed), inputs_of(network, 3, 8, seed + 1)]
    for number in range(KEEPS):
        keep = random_keep(coupling, seed + number)
        check(generator, coupling, keep, inputs, export=number == 0 and seed % 8 == 0)


@settings(PROPERTY, max_examples=max(1, EXAMPLES // 10))
@given(networks(most=4), st.integers(0, 2**16))
def test_pruned_is_silenced_at_free_sizes(network, seed):
    """Exported with free picture sizes, saved, loaded, run at two of them."""
    generator = generator_of(network, free=True)
    coupling = couple(generator)
    inputs = [inputs_of(network, 2, 8, seed), inputs_of(network, 1, 12, seed + 1)]
    check(generator, coupling, random_keep(coupling, seed), inputs)
