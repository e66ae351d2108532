"""The kind of machine, told by its files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.runtime.host.kind import JETPACK_OF_L4T, JETPACK_OF_L4T_MAJOR, Host, read_host
from tests.runtime.host.machines import JETPACK_PACKAGE, ORIN, PCI_GPU


def test_a_jetson_is_told_by_its_files(machine: Callable[..., Path]) -> None:
    host = read_host(machine(ORIN))
    assert host == Host("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2", True, True, "540.4.0", False)
    assert host.cuda_extra == "cuda12"


@pytest.mark.parametrize(
    ("status", "version"), [("install ok installed", "6.2.1"), ("deinstall ok config-files", "6.2")]
)
def test_the_jetpack_package_says_it_better(machine: Callable[..., Path], status: str, version: str) -> None:
    assert read_host(machine(ORIN, {"var/lib/dpkg/status": JETPACK_PACKAGE.format(status)})).jetpack == version


@pytest.mark.parametrize(
    ("release", "revision", "jetpack", "extra", "too_old"),
    [
        ("35", "4.1", "5", "cuda12", True),
        ("36", "3.0", "6.0", "cuda12", True),
        ("36", "4.0", "6.1", "cuda12", False),
        ("36", "9.0", "6", "cuda12", False),
        ("38", "4.0", "7.1", "cuda13", False),
        ("39", "2.0", "7.2", "cuda13", False),
        ("39", "9.0", "7", "cuda13", False),
        ("77", "1.0", None, "cuda13", False),
    ],
)
def test_jetpack_of_other_jetsons(
    machine: Callable[..., Path], release: str, revision: str, jetpack: str | None, extra: str, too_old: bool
) -> None:
    host = read_host(machine({"etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1\n"}))
    assert (host.l4t, host.jetpack, host.cuda_extra) == (f"{release}.{revision}", jetpack, extra)
    assert host.jetpack_too_old == too_old


def test_every_known_jetson_linux_is_of_the_jetpack_of_its_major_version() -> None:
    for l4t, jetpack in JETPACK_OF_L4T.items():
        assert jetpack.startswith(f"{JETPACK_OF_L4T_MAJOR[l4t.partition('.')[0]]}.")


@pytest.mark.parametrize(
    ("kernel", "jetson", "jetpack"),
    [("5.15.148-tegra", True, "6"), ("6.8.12-tegra", True, "7"), ("6.8.0", False, None)],
)
def test_a_container_tells_a_jetson_by_its_kernel(
    machine: Callable[..., Path], kernel: str, jetson: bool, jetpack: str | None
) -> None:
    host = read_host(machine({"proc/sys/kernel/osrelease": f"{kernel}\n", ".dockerenv": ""}))
    assert host == Host(jetpack=jetpack, jetson=jetson, nvidia=jetson, container=True)


def test_gpus_without_driver_and_none_at_all(machine: Callable[..., Path]) -> None:
    assert read_host(machine()) == Host()
    assert read_host(machine(PCI_GPU)) == Host(nvidia=True)
    network_card = {"sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n"}
    assert read_host(machine(PCI_GPU, network_card)) == Host()


@pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda13"), ("575.57", "cuda12"), (None, "cuda13")])
def test_the_driver_decides_which_cuda(driver: str | None, extra: str) -> None:
    assert Host(driver=driver).cuda_extra == extra
