"""The most memory that this process has held."""

from __future__ import annotations

import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory_bytes(status: Path = STATUS) -> int:
    """Peak resident memory of this process since it began, in bytes: interpreter, libraries, model and all.

    Linux's `VmHWM`. `getrusage`, used elsewhere, is no use there: its peak outlives exec, so that a process starts with
    the peak of the one that started it (setmax_mm_hiwater_rss in fs/exec.c).
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB elsewhere
