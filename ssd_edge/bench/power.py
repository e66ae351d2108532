"""Power, where the machine tells it: Jetson's rails, an NVIDIA GPU's board (NVML), a processor's packages (RAPL)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ssd_edge.nvml import NvmlDevice, has_nvml_package
from ssd_edge.runtime.host.fixes import extra_command
from ssd_edge.runtime.host.kind import read_host

SAMPLE_SECONDS = 0.02
# Rails that feed the whole module: Orin Nano and NX, Xavier NX, TX2; Nano. Others (AGX Xavier, AGX Orin) have none.
# https://docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide/SD/PlatformPowerAndPerformance.html
WHOLE_MODULE_RAILS = ("VDD_IN", "POM_5V_IN")
NOT_CONNECTED = "NC"


class PowerReader(Protocol):
    """Something that tells power; `name` says of what."""

    name: str

    def begin(self) -> None:
        """A turn begins."""

    def sample(self) -> None:
        """Called again and again during the turn."""

    def mean_w(self) -> float | None:
        """Mean power since `begin`, in watts; None when nothing could be read."""


class Gauge:
    """Power at the moment of reading: the mean of samples. `read_w` may raise OSError."""

    def __init__(self, name: str, read_w: Callable[[], float]) -> None:
        self.name = name
        self._read_w = read_w
        self._samples: list[float] = []

    def begin(self) -> None:
        self._samples = []

    def sample(self) -> None:
        try:
            self._samples.append(self._read_w())
        except (OSError, ValueError):  # a rail that is busy for a moment; the other samples stand
            return

    def mean_w(self) -> float | None:
        return sum(self._samples) / len(self._samples) if self._samples else None


class EnergyCounter:
    """Energy that only grows: its difference over a turn, which no sample can miss. `read_j` may raise OSError.

    Args:
        wraps_at_j: where the counter starts again from 0; None: it does not within a turn.

    Attributes:
        clock: gives seconds.
    """

    def __init__(
        self,
        name: str,
        read_j: Callable[[], float],
        *,
        wraps_at_j: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self._read_j = read_j
        self._wraps_at_j = wraps_at_j
        self.clock = clock
        self._begin: tuple[float, float] | None = None  # seconds, joules

    def begin(self) -> None:
        self._begin = self._now()

    def sample(self) -> None:
        pass

    def mean_w(self) -> float | None:
        begin, end = self._begin, self._now()
        if begin is None or end is None or end[0] <= begin[0]:
            return None
        joules = end[1] - begin[1]
        if joules < 0 and self._wraps_at_j is not None:
            joules += self._wraps_at_j
        return joules / (end[0] - begin[0]) if joules >= 0 else None

    def _now(self) -> tuple[float, float] | None:
        try:
            return self.clock(), self._read_j()
        except (OSError, ValueError):
            return None


class PowerMeter:
    """Reads all readers from a thread of its own while something is measured."""

    def __init__(self, readers: Sequence[PowerReader] = (), *, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self.readers = tuple(readers)
        self._sample_seconds = sample_seconds

    @contextmanager
    def measuring(self) -> Iterator[dict[str, float]]:
        """Gives a dict that is filled at the end: mean watts by the reader's name."""
        power_w: dict[str, float] = {}
        if not self.readers:
            yield power_w
            return
        stop = threading.Event()
        for reader in self.readers:
            reader.begin()
        thread = threading.Thread(target=self._sample_until, args=(stop,), daemon=True)
        thread.start()
        try:
            yield power_w
        finally:
            stop.set()
            thread.join()
        for reader in self.readers:
            if (watts := reader.mean_w()) is not None:
                power_w[reader.name] = watts

    def _sample_until(self, stop: threading.Event) -> None:
        while True:
            for reader in self.readers:
                reader.sample()
            if stop.wait(self._sample_seconds):
                return


def find_power_readers(root: Path = Path("/"), nvml: NvmlDevice | None = None) -> tuple[PowerReader, ...]:
    """What tells power on this machine; each was read once. They measure different parts, so their sum has a meaning.

    Args:
        root: of the file system, for tests.
        nvml: the GPU to ask.
    """
    return (*_jetson_readers(root), *_nvml_readers(nvml), *_rapl_readers(root))


def missing_nvml(root: Path = Path("/")) -> str | None:
    """Why an NVIDIA GPU tells nothing and how to change that; None where nvidia-ml-py is there, or no such GPU.

    Args:
        root: of the file system, for tests.
    """
    host = read_host(root)
    if not host.nvidia or has_nvml_package():
        return None
    return (
        "power and memory of the GPU are not told: the package nvidia-ml-py is not installed; "
        f"{extra_command(host.cuda_extra)}"
    )


def _jetson_readers(root: Path) -> list[PowerReader]:
    """INA3221 monitors: volts and amperes a rail under `hwmon` (JetPack 5 on), milliwatts under `iio` (before).

    https://www.kernel.org/doc/html/latest/hwmon/ina3221.html
    """
    rails = {**_iio_rails(root), **_hwmon_rails(root)}
    readable = {name: read_w for name, read_w in rails.items() if _reads(read_w)}
    for name in WHOLE_MODULE_RAILS:
        if name in readable:
            return [Gauge(f"Jetson module, rail {name}", readable[name])]
    if not readable:
        return []
    parts = tuple(readable.values())
    return [Gauge(f"Jetson rails {' + '.join(sorted(readable))}", lambda: sum(read_w() for read_w in parts))]


def _hwmon_rails(root: Path) -> dict[str, Callable[[], float]]:
    rails = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = (label.with_name(f"{kind}{channel}_input") for kind in ("in", "curr"))
        name = _text(label)
        if name and name != NOT_CONNECTED and amperes.exists():  # in7, the sum of shunt voltages, has no current
            rails[name] = _product_w(volts, amperes)
    return rails


def _iio_rails(root: Path) -> dict[str, Callable[[], float]]:
    rails = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221*/*/iio:device*/rail_name_*")):
        channel = label.name.removeprefix("rail_name_")
        name = _text(label)
        if name and name != NOT_CONNECTED:
            rails[name] = _scaled(label.with_name(f"in_power{channel}_input"), 1e-3)
    return rails


def _rapl_readers(root: Path) -> list[PowerReader]:
    """Energy of each processor package in microjoules; its cores and the whole platform are not counted twice.

    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
    """
    readers: list[PowerReader] = []
    for label in sorted(root.glob("sys/class/powercap/*/name")):
        name, read_j = _text(label), _scaled(label.with_name("energy_uj"), 1e-6)
        if name.startswith("package") and _reads(read_j):  # readable for root alone on many machines
            wraps = label.with_name("max_energy_range_uj")
            wraps_at_j = float(_text(wraps)) / 1e6 if _text(wraps).isdecimal() else None
            readers.append(EnergyCounter(f"processor {name} (RAPL)", read_j, wraps_at_j=wraps_at_j))
    return readers


def _nvml_readers(nvml: NvmlDevice | None) -> list[PowerReader]:
    """The energy counter where there is one; the power reading of some GPUs is a mean of the last second."""
    if nvml is None:
        return []
    name = f"{nvml.name}, whole board (NVML)"
    if _reads(nvml.energy_j):
        return [EnergyCounter(name, nvml.energy_j)]
    return [Gauge(name, nvml.power_w)] if _reads(nvml.power_w) else []


def _reads(read: Callable[[], float]) -> bool:
    try:
        read()
    except (OSError, ValueError):
        return False
    return True


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: unit * float(path.read_text(encoding="ascii"))


def _product_w(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: (
        1e-6 * float(millivolts.read_text(encoding="ascii")) * float(milliamperes.read_text(encoding="ascii"))
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
