"""Which source evidence is of: commit, version, digest of the kernels. Standard library only, without git."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

KERNELS = Path("ssd_edge", "runtime", "cuda", "kernels.cu")
VERSION = Path("ssd_edge", "version.py")
REFERENCE = "ref: "  # what HEAD begins with on a branch


def source(root: Path) -> dict[str, Any]:
    """Of a checkout or a copy of its files, which may differ from the commit: the digest tells for the kernels."""
    found = re.search(r'^__version__ = "(.+)"$', (root / VERSION).read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "version": found[1] if found else None,
        "commit": commit(root),
        "kernels_sha256": hashlib.sha256((root / KERNELS).read_bytes()).hexdigest(),
    }


def commit(root: Path) -> str | None:
    """The commit that is checked out; None where there is no repository."""
    folder = root / ".git"
    if folder.is_file():  # of a linked work tree
        folder = root / _text(folder).removeprefix("gitdir: ")
    head = _text(folder / "HEAD")
    if not head.startswith(REFERENCE):
        return head or None
    name = head.removeprefix(REFERENCE)
    shared = folder / (_text(folder / "commondir") or ".")  # a linked work tree has its branches there
    packed = (line.split(" ", 1) for line in _text(shared / "packed-refs").splitlines() if " " in line)
    return _text(shared / name) or next((number for number, of in packed if of == name), None)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
