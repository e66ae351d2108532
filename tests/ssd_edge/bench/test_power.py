"""Readers of power on file trees as Jetsons and other machines have them, and on a made-up NVML."""

import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ssd_edge.bench.power import EnergyCounter, Gauge, PowerMeter, find_power_readers, missing_nvml
from ssd_edge.nvml import open_nvml
from tests.fakes.nvml import FakeNvml, load_nvml


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def hwmon(folder: str, *rails: tuple[str, int, int]) -> dict[str, str]:
    """Files of an INA3221: label, millivolts and milliamperes of each channel, and the sum of shunt voltages."""
    files = {f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": "5"}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_input": str(millivolts),
            f"{folder}/curr{channel}_input": str(milliamperes),
        }
    return files


def read_once(reader: Any) -> float:
    reader.begin()
    reader.sample()
    watts: float = reader.mean_w()
    return watts


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert find_power_readers(tmp_path) == ()


def test_jetson_orin_nano_has_a_rail_of_the_whole_module(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rails = (("VDD_IN", 5000, 1600), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300))
    (reader,) = find_power_readers(write(tmp_path, hwmon(folder, *rails)))
    assert reader.name == "Jetson module, rail VDD_IN"
    assert read_once(reader) == pytest.approx(8.0)


def test_jetson_agx_orin_has_parts_that_are_summed(tmp_path: Path) -> None:
    one = hwmon(
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3",
        ("VDD_GPU_SOC", 20000, 200),
        ("VDD_CPU_CV", 20000, 50),
        ("VIN_SYS_5V0", 5000, 600),
    )
    two = hwmon("sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100))
    (reader,) = find_power_readers(write(tmp_path, one | two))
    assert reader.name == "Jetson rails VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"
    assert read_once(reader) == pytest.approx(4 + 1 + 3 + 0.5)


def test_jetpack_4_has_milliwatts(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": "3456"}
    files |= {f"{folder}/rail_name_1": "POM_5V_GPU", f"{folder}/in_power1_input": "1000"}
    (reader,) = find_power_readers(write(tmp_path, files))
    assert read_once(reader) == pytest.approx(3.456)


def test_rails_that_cannot_be_read_are_no_readers(tmp_path: Path) -> None:
    files = hwmon("sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3", ("VDD_IN", 5000, 1600))
    files["sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input"] = ""  # a channel that is switched off
    assert find_power_readers(write(tmp_path, files)) == ()


def test_rapl_counts_packages_only_and_wraps(tmp_path: Path) -> None:
    files = {}
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        files[f"sys/class/powercap/{folder}/name"] = name
        files[f"sys/class/powercap/{folder}/energy_uj"] = "9000000"
        files[f"sys/class/powercap/{folder}/max_energy_range_uj"] = "10000000"
    (reader,) = find_power_readers(write(tmp_path, files))
    assert reader.name == "processor package-0 (RAPL)"
    clock = iter([100.0, 102.0])
    assert isinstance(reader, EnergyCounter)
    reader.clock = lambda: next(clock)
    reader.begin()
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("5000000")
    assert reader.mean_w() == pytest.approx(3.0)  # from 9 J past 10 J to 5 J in 2 s


def test_a_counter_that_went_backwards_or_is_gone_tells_nothing() -> None:
    joules = iter([5.0, 4.0])
    counter = EnergyCounter("a", lambda: next(joules))
    counter.begin()
    assert counter.mean_w() is None

    def gone() -> float:
        raise OSError

    counter = EnergyCounter("a", gone)
    counter.begin()
    assert counter.mean_w() is None


def test_the_meter_samples_while_something_is_measured() -> None:
    readings, read = iter([2.0, 4.0] + [3.0] * 10_000), list[float]()

    def read_w() -> float:
        read.append(next(readings))
        return read[-1]

    meter = PowerMeter([Gauge("a", read_w)], sample_seconds=0.001)
    with meter.measuring() as power_w:
        deadline = time.monotonic() + 5
        while len(read) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    assert power_w == {"a": pytest.approx(3.0)}
    with PowerMeter().measuring() as power_w:
        pass
    assert power_w == {}


def test_the_meter_lets_errors_through_and_stops() -> None:
    meter = PowerMeter([Gauge("a", lambda: 1.0)])
    with pytest.raises(RuntimeError, match="crash"), meter.measuring():
        raise RuntimeError("crash")


def test_nvml_without_an_energy_counter_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_nvml(monkeypatch, lambda _: FakeNvml("nvmlDeviceGetTotalEnergyConsumption"))
    (reader,) = find_power_readers(tmp_path, open_nvml())
    assert reader.name == "NVIDIA Orin, whole board (NVML)"
    assert read_once(reader) == pytest.approx(65.5)
    neither = FakeNvml("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    load_nvml(monkeypatch, lambda _: neither)
    assert find_power_readers(tmp_path, open_nvml()) == ()


def test_a_gpu_without_the_package_of_nvml_is_noted_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01"})
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert missing_nvml(tmp_path) == (
        "power and memory of the GPU are not told: the package nvidia-ml-py is not installed; "
        "in the folder of ssd-edge: pip install '.[cuda12]'"
    )
    assert missing_nvml(tmp_path / "no GPU") is None
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    monkeypatch.setattr("pynvml.__spec__", ModuleSpec("pynvml", None))
    assert missing_nvml(tmp_path) is None
