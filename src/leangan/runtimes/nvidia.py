"""Whether NVIDIA's driver knows of a GPU, asked without any package that could use it."""

from __future__ import annotations

import ctypes
import functools
import sys

NEEDED = "an NVIDIA GPU with its driver"


@functools.cache
def has_gpu() -> bool:
    """Whether there is one GPU or more that CUDA can use."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 < count.value
