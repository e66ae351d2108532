"""Whether a Python package is installed, and its version, without importing it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version


def is_installed(package: str) -> bool:
    """Whether a package can be imported, by the name that code imports, such as `cuda.core`."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent that is absent, or blocked
        return False


def installed_version(package: str) -> str | None:
    """Version of a package, by the name that pip has for it, such as `cuda-core`; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
