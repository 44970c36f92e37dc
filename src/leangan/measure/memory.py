"""Memory of this process, in bytes.

`ru_maxrss` alone misleads on Linux: a process starts with the peak of the one that forked it, so a
small child of a large parent reports the parent's. The kernel's own `VmHWM` is the process's.
"""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def current_bytes() -> int:
    """Resident memory now; the peak where the system does not tell."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most resident memory since the process began; 0 where the system does not tell."""
    told = _status("VmHWM")
    if told is not None:
        return told
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None
