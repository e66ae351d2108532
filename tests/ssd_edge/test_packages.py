"""Which packages are installed, without an import of them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from ssd_edge.packages import installed_version, is_installed


def test_what_is_installed_is_found_by_the_name_of_its_import() -> None:
    assert is_installed("cv2")
    assert not is_installed("of_this_name_is_nothing")
    assert not is_installed("of_this_name_is_nothing.core")


def test_a_blocked_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert not is_installed("cv2")
    assert not is_installed("cv2.core")


def test_versions_are_found_by_the_name_of_the_distribution() -> None:
    assert installed_version("numpy") == version("numpy")
    assert installed_version("of-this-name-is-nothing") is None


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from ssd_edge.packages import is_installed; is_installed('numpy'); print('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
