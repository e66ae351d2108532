"""NVML by way of nvidia-ml-py, on a made-up library."""

import sys
from types import SimpleNamespace

import pytest

from ssd_edge.machine import describe_machine
from ssd_edge.nvml import has_nvml_package, open_nvml
from tests.fakes.nvml import FakeNvml, load_nvml


def test_nvml_tells_energy_power_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    load_nvml(monkeypatch, lambda _: FakeNvml())
    device = open_nvml()
    assert device is not None
    assert (device.name, device.used_bytes()) == ("NVIDIA Orin", 1 << 30)
    assert (device.energy_j(), device.power_w()) == pytest.approx((12.345, 65.5))
    machine = describe_machine()
    assert (machine["gpu"], machine["gpu_driver"]) == ("NVIDIA Orin", "580.65.06")


@pytest.mark.parametrize(
    ("visible", "index", "asked"),
    [(None, 1, 1), ("3,2", 1, 2), ("GPU-8f", 0, b"GPU-8f"), ("", 0, None), ("3", 1, None)],
)
def test_nvml_asks_the_gpu_that_cuda_sees(
    visible: str | None, index: int, asked: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = FakeNvml()
    load_nvml(monkeypatch, lambda _: library)
    device = open_nvml(index)
    assert (device is None) == (asked is None)
    assert library.asked == ([] if asked is None else [asked])


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    load_nvml(monkeypatch, load)
    assert open_nvml() is None
    load_nvml(monkeypatch, lambda _: FakeNvml("nvmlInitWithFlags"))
    assert open_nvml() is None
    old = SimpleNamespace(nvmlInitWithFlags=lambda _: 0)  # a library without the other functions
    load_nvml(monkeypatch, lambda _: old)
    assert open_nvml() is None


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    load_nvml(monkeypatch, lambda _: FakeNvml())
    assert has_nvml_package()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml() is None
    assert not has_nvml_package()
    assert "gpu" not in describe_machine()
