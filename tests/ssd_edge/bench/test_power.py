"""Readers of power on file trees as Jetsons and other machines have them, and on a made-up NVML."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_edge.bench.power import EnergyCounter, Gauge, PowerMeter, find_power_readers
from ssd_edge.nvml import open_nvml


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
    reader._clock = lambda: next(clock)
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
    readings = iter([2.0, 4.0] + [3.0] * 10_000)
    meter = PowerMeter([Gauge("a", lambda: next(readings))], sample_seconds=0.001)
    with meter.measuring() as power_w:
        deadline = time.monotonic() + 5
        while len(meter.readers[0]._samples) < 3 and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.001)
    assert power_w == {"a": pytest.approx(3.0)}
    with PowerMeter().measuring() as power_w:
        pass
    assert power_w == {}


def test_the_meter_lets_errors_through_and_stops() -> None:
    meter = PowerMeter([Gauge("a", lambda: 1.0)])
    with pytest.raises(RuntimeError, match="crash"), meter.measuring():
        raise RuntimeError("crash")


class FakeNvml:
    """Answers as a driver with GPUs does; `lacks` are functions that answer 3, not supported."""

    def __init__(self, *lacks: str) -> None:
        self.lacks = lacks
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        values = {"nvmlDeviceGetTotalEnergyConsumption": 12_345, "nvmlDeviceGetPowerUsage": 65_500}

        def call(*arguments: Any) -> int:
            if name in self.lacks:
                return 3
            if name == "nvmlDeviceGetName":
                arguments[1].value = b"NVIDIA Orin"
            elif name == "nvmlDeviceGetMemoryInfo":
                arguments[1]._obj.used = 1 << 30
            elif name in values:
                arguments[1]._obj.value = values[name]
            elif name.startswith("nvmlDeviceGetHandleBy"):
                self.asked.append(getattr(arguments[0], "value", arguments[0]))
            return 0

        return call


def test_nvml_tells_energy_power_and_memory() -> None:
    device = open_nvml(load=lambda _: FakeNvml())
    assert device is not None
    assert (device.name, device.energy_j(), device.power_w(), device.used_bytes()) == (
        "NVIDIA Orin",
        pytest.approx(12.345),
        pytest.approx(65.5),
        1 << 30,
    )


def test_nvml_without_an_energy_counter_is_sampled(tmp_path: Path) -> None:
    device = open_nvml(load=lambda _: FakeNvml("nvmlDeviceGetTotalEnergyConsumption"))
    (reader,) = find_power_readers(tmp_path, device)
    assert reader.name == "NVIDIA Orin, whole board (NVML)"
    assert read_once(reader) == pytest.approx(65.5)
    neither = FakeNvml("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    assert find_power_readers(tmp_path, open_nvml(load=lambda _: neither)) == ()


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
    device = open_nvml(index, load=lambda _: library)
    assert (device is None) == (asked is None)
    assert library.asked == ([] if asked is None else [asked])


def test_no_driver() -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    assert open_nvml(load=load) is None
    assert open_nvml(load=lambda _: FakeNvml("nvmlInit_v2")) is None
    old = SimpleNamespace(nvmlInit_v2=lambda: 0)  # a library without the other functions
    assert open_nvml(load=lambda _: old) is None
