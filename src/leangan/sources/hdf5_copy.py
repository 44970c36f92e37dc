"""Copy the numbers and attributes of an HDF5 file of weights, and nothing else of it.

The C library that reads HDF5 crashes on some damaged files and never comes back from others. This
file is therefore run as a process of its own, which imports neither torch nor leangan; what it
leaves is a file that h5py itself wrote.
"""

from __future__ import annotations

import sys
from typing import Any

_MOST_RATIO = 1100  # deflate cannot do better: more is a size that no bytes stand behind
_SMALL = 1 << 16
_SKIPPED = ("optimizer_weights", "optimizer")
_MOST_DEPTH = 64


def copy(source: str, target: str) -> None:
    """Write to `target` every group, attribute and dataset of `source`.

    Raises:
        ValueError: it points out of itself, or holds something other than numbers.
        Exception: whatever h5py makes of a damaged file.
    """
    import h5py

    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        _attributes(old, new)
        _group(old, new, 0)


def _group(old: Any, new: Any, depth: int) -> None:
    import h5py

    if depth > _MOST_DEPTH:
        raise ValueError("its groups lie within each other without end")
    for name in old:
        if depth == 0 and name in _SKIPPED:
            continue
        if not isinstance(old.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link to another place or file")
        item = old[name]
        if isinstance(item, h5py.Group):
            made = new.create_group(name)
            _group(item, made, depth + 1)
        else:
            _check(item)
            made = new.create_dataset(name, data=item[()])
        _attributes(item, made)


def _check(item: Any) -> None:
    if item.external or item.is_virtual:
        raise ValueError(f"{item.name!r} keeps its numbers in another file")
    if item.dtype.kind not in "fiubV" or item.dtype.fields or item.dtype.hasobject:
        raise ValueError(f"{item.name!r} holds no numbers")
    if item.nbytes > max(_SMALL, item.id.get_storage_size() * _MOST_RATIO):
        raise ValueError(f"{item.name!r} is cut short")


def _attributes(old: Any, new: Any) -> None:
    for key in old.attrs:
        new.attrs[key] = old.attrs[key]


if __name__ == "__main__":
    try:
        copy(sys.argv[1], sys.argv[2])
    except Exception as error:
        sys.exit(f"{error}")
