"""How many CPUs this process may keep busy, and how many threads its commands compute with.

Imports nothing heavy: it is used before PyTorch, NumPy and OpenCV are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
TOPOLOGY = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may keep busy, at least 1: those it may run on, within the quotas of its control groups.

    A quota of 2.5 CPUs counts as 2: a third thread would only be held up.

    Args:
        root: of the file system, for tests.
    """
    return _within_quotas(len(_allowed_cpus()), root)


def compute_threads(root: Path = ROOT) -> int:
    """Threads to compute with, at least 1: as `usable_cpus`, but one per physical core.

    Two hardware threads of a core share its arithmetic units, so a network gains nothing from the second.
    """
    siblings = {_text(root / TOPOLOGY.format(cpu)) or cpu for cpu in _allowed_cpus()}
    return _within_quotas(len(siblings), root)


def be_a_good_neighbour() -> None:
    """Make the libraries that this process loads from now on leave the CPUs that they do not need to other processes.

    OpenMP's threads, which compute for PyTorch, sleep while they wait for each other: by default they spin for
    milliseconds, and where two processes share the CPUs each spins in the time of the other. PyTorch, NumPy and OpenCV
    start as many threads as may run; on their own they know no quota. ONNX Runtime is told when a session is opened
    (`runtime/backends/ort_session.py`).

    What the user has set in the environment stays. The settings are inherited by child processes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(compute_threads()))
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", str(usable_cpus()))


def let_openmp_spin() -> None:
    """For a measurement of latency: PyTorch's threads, if it is not loaded yet, spin as if no wait policy were set.

    The count is that of GNU's OpenMP: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "300000")


def _allowed_cpus() -> set[int]:
    """The CPUs of the affinity mask, which cpusets and `taskset` limit."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _within_quotas(cpus: int, root: Path) -> int:
    shares = [share for group in _groups(root) for share in _shares(group)]
    return max(1, int(min([cpus, *shares])))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups, v1 and v2, that can limit this process's CPUs: its own and those around it.

    /proc/self/cgroup has the group of each hierarchy, /proc/self/mountinfo where the hierarchy is mounted and from
    which group on: in a container without a namespace of control groups, that is the container's group.
    Sources: cgroups(7), proc_pid_mountinfo(5).
    """
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), Path(path)))  # "" is that of cgroup v2
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        mounted_group, mount_point = mount.split()[3:5]
        kind, _, options = file_system.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller not in groups or (controller == "cpu" and "cpu" not in options.split(",")):
            continue
        group, top = groups[controller], root / mount_point.lstrip("/")
        own = top / group.relative_to(mounted_group) if group.is_relative_to(mounted_group) else top
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _shares(group: Path) -> Iterator[float]:
    """The quota of one control group in CPUs, if it has one."""
    quota_us, _, period_us = _text(group / "cpu.max").partition(" ")  # v2: "150000 100000", or "max 100000"
    if not period_us:
        quota_us, period_us = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")  # v1: -1 for none
    with suppress(ValueError):
        if (quota := int(quota_us)) > 0:
            yield quota / int(period_us)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
