"""Files: written so that a reader never meets half of one, and the folders where caches lie."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssd_edge.errors import SinkError

CACHE_VARIABLE = "SSD_EDGE_CACHE"


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Give a temporary path beside `final`; on success it takes the final name, on failure it is removed.

    A full disk or a crash while writing leaves the old file untouched.

    Raises:
        SinkError: the folder cannot be made or written to, or writing failed for lack of space.
    """
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, final)
    except OSError as error:
        raise SinkError(
            f"cannot write {final}: {error.strerror or error}; choose a folder that is writable and has space"
        ) from error
    finally:
        with suppress(OSError):  # a parent that is no folder; the error above has said so
            part.unlink()


def check_folder(folder: Path) -> None:
    """Make the folder and write to it: to be called before the long work.

    Raises:
        SinkError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SinkError(
            f"cannot write to {folder}: {error.strerror or error}; give a folder that is writable"
        ) from error


def engine_cache_folder() -> Path:
    """Folder of engines: `$SSD_EDGE_CACHE`, or `~/.cache/ssd-edge/engines`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "ssd-edge" / "engines"


def kernel_cache_folder() -> Path:
    """Folder of compiled CUDA kernels: `kernels` in `$SSD_EDGE_CACHE`, or in `~/.cache/ssd-edge`."""
    named = os.environ.get(CACHE_VARIABLE)
    return (Path(named) if named else Path.home() / ".cache" / "ssd-edge") / "kernels"
