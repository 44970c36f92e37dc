"""Several processes that train together, as torchrun starts them.

Without torch where it is only asked who this is: the command line asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def count() -> int:
    """How many there are; 1 where torchrun started none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this one writes and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> None:
    """Meet the others, before anything is shared."""
    import torch
    from torch import distributed

    if count() > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block alone; the others find what it left."""
    from torch import distributed

    if count() > 1 and not is_first():
        distributed.barrier()
    yield
    if count() > 1 and is_first():
        distributed.barrier()
