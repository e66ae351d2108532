"""How files that a stream goes on writing for months leave room on their disk."""

from __future__ import annotations

import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

FREE_FLOOR_BYTES = 256 * 2**20
RESUME_BYTES = 16 * 2**20  # above the floor, so that writing that goes on does so for a while


def check_free(folder: Path, floor_bytes: int, *, resuming: bool = False) -> None:
    """See that the folder's disk has more than the floor free.

    Args:
        resuming: nothing was written of late; there has to be a little more, then.

    Raises:
        OSError: it has not.
    """
    floor_bytes += RESUME_BYTES if resuming else 0
    if shutil.disk_usage(folder).free < floor_bytes:
        raise OSError(f"less than {floor_bytes / 2**20:.0f} MiB, the floor, are free on its disk; free some")


def remove_oldest(folder: Path, own_name: re.Pattern[str], keep_bytes: int, newest: Path) -> None:
    """Remove files of such names, the first in their order first, until the others fit into `keep_bytes`.

    Nothing else is removed, and `newest` never is. Files that differ in their suffix alone go together.

    Raises:
        OSError: the folder cannot be read, or a file cannot be removed.
    """
    sizes: dict[str, dict[Path, int]] = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # others may take files away
            status = path.lstat()
            if own_name.fullmatch(path.name) and stat.S_ISREG(status.st_mode):
                sizes.setdefault(path.stem, {})[path] = status.st_size
    excess = sum(sum(group.values()) for group in sizes.values()) - keep_bytes
    for stem, group in sorted(sizes.items()):
        if excess <= 0:
            break
        if stem != newest.stem:
            for path in group:
                path.unlink(missing_ok=True)
            excess -= sum(group.values())
