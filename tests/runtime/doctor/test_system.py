"""Checks of the machine itself."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssd_edge.runtime.doctor import system
from ssd_edge.runtime.doctor.finding import NONE, OK, PROBLEM, Finding
from tests.runtime.host.machines import ORIN


def test_python() -> None:
    found = system.python()
    assert found.status == OK
    assert found.facts == {
        "version": ".".join(map(str, sys.version_info[:3])),
        "virtual_environment": sys.prefix != sys.base_prefix,
    }


@pytest.mark.parametrize(
    ("line", "words", "fast"),
    [
        ("flags : fpu avx2 avx512_vnni", "fast int8 (VNNI)", True),
        ("Features : fp asimd asimddp i8mm", "fast int8 (dot product, int8 matrices)", True),
        ("flags : fpu avx2", "int8 hardly faster than fp32", False),
    ],
)
def test_processor(machine: Callable[..., Path], line: str, words: str, fast: bool) -> None:
    found = system.processor(machine({"proc/cpuinfo": f"model name : Some CPU\n{line}\n"}))
    assert found.summary.startswith("Some CPU, ")
    assert words in found.summary
    assert found.facts["fast_int8"] is fast


@pytest.mark.parametrize(("free_kib", "status"), [(3 << 20, OK), (100 << 10, PROBLEM)])
def test_memory(machine: Callable[..., Path], free_kib: int, status: str) -> None:
    found = system.memory(machine({"proc/meminfo": f"MemTotal:  8388608 kB\nMemAvailable: {free_kib} kB\n"}))
    assert (found.status, found.facts) == (status, {"total_bytes": 8 << 30, "free_bytes": free_kib << 10})
    assert found.summary == f"{free_kib / (1 << 20):.1f} of 8.0 GiB free"


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = {"cache": 5 << 30, "here": 9 << 30}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path).name]))
    for name in free:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache" / "not" / "yet"))
    found = system.disk()
    assert (found.status, found.summary) == (OK, "9.0 GiB free here, 5.0 GiB for engines")
    free["cache"] = 1 << 20
    assert system.disk().status == PROBLEM
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = system.disk()
    assert (found.status, found.summary) == (PROBLEM, f"{tmp_path / 'cache'} cannot be written to")
    assert "export SSD_EDGE_CACHE=" in str(found.fix)


def test_jetpack(machine: Callable[..., Path]) -> None:
    assert system.jetpack(machine()) == Finding(NONE, "not a Jetson")
    found = system.jetpack(machine(ORIN))
    assert (found.status, found.summary) == (
        OK,
        "6.2 (Jetson Linux 36.4.3), NVIDIA Jetson Orin Nano Developer Kit",
    )


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"), [("35", "4.1", "5"), ("36", "2.0", "6.0"), ("36", "3.0", "6.0")]
)
def test_a_jetpack_too_old_names_the_one_needed(
    machine: Callable[..., Path], release: str, revision: str, jetpack: str
) -> None:
    l4t = {"etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1\n"}
    found = system.jetpack(machine(ORIN, l4t))
    assert found.status == PROBLEM
    assert found.summary.startswith(f"{jetpack} (Jetson Linux {release}.{revision}), NVIDIA Jetson Orin")
    assert found.summary.endswith("too old, 6.1 or later is needed")
    assert "flash JetPack 6.1 or later" in str(found.fix)


def test_a_container_on_a_jetson_does_not_know_its_jetpack(machine: Callable[..., Path]) -> None:
    root = machine(ORIN, {"etc/nv_tegra_release": "", ".dockerenv": ""})
    found = system.jetpack(root)
    assert (found.status, found.facts["l4t"]) == (OK, None)
    assert found.summary.startswith("unknown version (Jetson Linux unknown), NVIDIA Jetson Orin")
