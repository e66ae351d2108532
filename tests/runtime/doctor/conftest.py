"""Packages that are installed, and modules that are imported, as a test wants them."""

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_edge import packages


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the doctor find these packages and versions, and no others."""

    def install(**versions: str) -> None:
        def version(package: str) -> str:
            if package.replace("-", "_") not in versions:
                raise PackageNotFoundError(package)
            return versions[package.replace("-", "_")]

        monkeypatch.setattr(packages, "version", version)

    return install


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module with these members where it would be imported from."""

    def make(name: str, **members: Any) -> None:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))

    return make
