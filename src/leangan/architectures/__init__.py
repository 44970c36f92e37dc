"""The field's reference networks, one family per file, recognised from keys and shapes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from leangan.architectures.base import Architecture, Part
from leangan.architectures.cyclegan import CYCLEGAN
from leangan.architectures.dcgan import DCGAN, DCGAN_DISCRIMINATOR
from leangan.architectures.fast_srgan import FAST_SRGAN
from leangan.architectures.hifigan import HIFIGAN
from leangan.architectures.hifigan_discriminator import HIFIGAN_DISCRIMINATOR
from leangan.architectures.istftnet import ISTFTNET
from leangan.architectures.mlp import MLP, MLP_DISCRIMINATOR
from leangan.architectures.mobile_stylegan import MOBILE_STYLEGAN
from leangan.architectures.patchgan import PATCHGAN
from leangan.architectures.pix2pix_unet import PIX2PIX_UNET
from leangan.architectures.reparameterized import plain_weights
from leangan.architectures.rrdb import RRDB
from leangan.architectures.shuffle_resnet import SHUFFLE_RESNET
from leangan.architectures.small_unet import SMALL_UNET
from leangan.architectures.squeezenet import SQUEEZENET
from leangan.architectures.srgan import SRGAN
from leangan.architectures.srresnet import SRRESNET
from leangan.architectures.srvgg import SRVGG
from leangan.architectures.stylegan2_discriminator import STYLEGAN2_DISCRIMINATOR
from leangan.errors import UnknownNetwork, UsageError

# The first family that recognises a file gets it: families with names of their own come first,
# those that take any list of layers last.
ARCHITECTURES: tuple[Architecture, ...] = (
    CYCLEGAN,
    PIX2PIX_UNET,
    RRDB,
    SRGAN,
    FAST_SRGAN,
    SRRESNET,
    SRVGG,
    HIFIGAN,
    ISTFTNET,
    SMALL_UNET,
    SHUFFLE_RESNET,
    MOBILE_STYLEGAN,
    SQUEEZENET,
    HIFIGAN_DISCRIMINATOR,
    STYLEGAN2_DISCRIMINATOR,
    PATCHGAN,
    DCGAN,
    DCGAN_DISCRIMINATOR,
    MLP,
    MLP_DISCRIMINATOR,
)


@functools.cache
def all_architectures() -> tuple[Architecture, ...]:
    """Ours, then those of installed packages (entry points `leangan.architectures`)."""
    return ARCHITECTURES + tuple(e.load() for e in entry_points(group="leangan.architectures"))


def part_architectures(part: Part) -> tuple[Architecture, ...]:
    """The families that play this part in a GAN."""
    return tuple(a for a in all_architectures() if a.part == part)


def architecture(name: str) -> Architecture:
    """The family of that name.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    known = {a.name: a for a in all_architectures()}
    if name not in known:
        raise UsageError(f"There is no architecture {name!r}; known are {', '.join(known)}.")
    return known[name]


def try_recognise(
    state: Mapping[str, Tensor], part: Part | None = None
) -> tuple[Architecture, dict[str, Any]] | None:
    """As `recognise`, but None for an unknown network."""
    state = plain_weights(state)
    for family in all_architectures() if part is None else part_architectures(part):
        try:
            arguments = family.recognise(state)
        except (IndexError, ValueError, ZeroDivisionError):
            continue  # names of this family on tensors of a shape that it never has
        if arguments is not None:
            return family, arguments
    return None


def recognise(
    state: Mapping[str, Tensor], part: Part | None = None
) -> tuple[Architecture, dict[str, Any]]:
    """The family that a state dict belongs to, and its constructor's arguments.

    Args:
        state: names to tensors; prefixes of wrappers must be gone already.
        part: only families that play this part in a GAN; any when None.

    Raises:
        UnknownNetwork: the message says what its keys look like.
    """
    found = try_recognise(state, part)
    if found is None:
        families = all_architectures() if part is None else part_architectures(part)
        raise UnknownNetwork(
            f"No known network has weights such as {sample(state)}; known are "
            f"{', '.join(a.name for a in families)}. "
            "Name its Python class instead: file.py:Class with --weights."
        )
    return found


def sample(state: Mapping[str, Tensor], count: int = 3) -> str:
    """A few names with their shapes, for messages."""
    names = list(state)
    shown = names[:count] if len(names) <= count + 1 else [*names[:count], names[-1]]
    text = ", ".join(f"{name} {list(state[name].shape)}" for name in shown)
    return f"{text} ({len(names)} in all)" if len(names) > len(shown) else text
