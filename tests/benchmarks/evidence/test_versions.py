"""What the machine has: GPU, driver, tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.evidence import versions


def test_tools_outside_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"/usr/local/cuda/bin", "/usr/local/nvidia/bin", "/opt/nvidia"} <= set(versions.TOOL_FOLDERS)
    monkeypatch.setattr(versions, "TOOL_FOLDERS", (str(tmp_path / "absent"), str(tmp_path)))
    program = tmp_path / "nsight" / "2025.1" / "ncu-of-nobody"
    program.mkdir(parents=True)
    assert versions.find_tool("ncu-of-nobody") is None  # a folder
    program.rmdir()
    program.write_text("#!/bin/sh\n")
    assert versions.find_tool("ncu-of-nobody") is None  # nothing that can be started
    program.chmod(0o755)
    assert versions.find_tool("ncu-of-nobody") == str(program)


def test_versions(tool: Callable[[str, str], None]) -> None:
    tool("nvidia-smi", "echo 'NVIDIA T, 580.1, 9.0, 143771 MiB, 4 MiB, Disabled, 345 MHz, 1980 MHz'")
    (gpu,) = versions.versions()["gpus"]
    assert (gpu["name"], gpu["compute_cap"], gpu["memory.total"]) == ("NVIDIA T", "9.0", "143771 MiB")
    tool("nvidia-smi", "echo 'NVIDIA-SMI has failed, because it cannot reach the driver' >&2; exit 9")
    found = versions.versions()
    assert found["gpus"] == []
    assert found["nvidia-smi"] == "exit status 9: NVIDIA-SMI has failed, because it cannot reach the driver"
