"""What numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("leangan", "torch", "torchao", "onnx", "onnxruntime", "openvino", "numpy")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def environment(threads: int) -> dict[str, Any]:
    """Machine, instruction sets that decide the speed of int8 and bf16, and versions.

    Args:
        threads: that were measured on.
    """
    model, flags = _cpu()
    return {
        "cpu": model,
        "instructions": [f for f in _FLAGS if f in flags],
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and flags; only Linux tells the flags in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return facts.get("model name", platform.machine()), frozenset(facts.get("flags", "").split())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
