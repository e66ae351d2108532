"""CPUs on machines made of files: affinity, hyper-threads, control groups v1 and v2; what the environment gets."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge import cpus
from ssd_edge.cpus import be_a_good_neighbour, compute_threads, usable_cpus

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "32 31 0:29 {group} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)
V1_GROUPS = "5:cpuset:/\n4:cpu,cpuacct:{group}\n1:name=systemd:/\n0::/\n"
EIGHT = set(range(8))

Machine = Callable[[dict[str, str]], Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A file system with these files, in which the process may run on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: EIGHT, raising=False)

    def make(files: dict[str, str]) -> Path:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return make


def v2(group: str, **quotas: str) -> dict[str, str]:
    """Files of cgroup v2; `quotas` by group, `_` for `/`."""
    limits = {f"sys/fs/cgroup/{name.replace('_', '/')}/cpu.max": text + "\n" for name, text in quotas.items()}
    return {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2, **limits}


def v1(group: str, mounted: str, folder: str, quota_us: int) -> dict[str, str]:
    """Files of cgroup v1, whose hierarchy is mounted from the group `mounted` on; the quota is that of `folder`."""
    place = f"sys/fs/cgroup/cpu,cpuacct/{folder}"
    return {
        "proc/self/cgroup": V1_GROUPS.format(group=group),
        "proc/self/mountinfo": V1.format(group=mounted),
        f"{place}/cpu.cfs_quota_us": f"{quota_us}\n",
        f"{place}/cpu.cfs_period_us": "100000\n",
    }


def test_this_process() -> None:
    assert 1 <= compute_threads() <= usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from ssd_edge.cpus import usable_cpus; print(usable_cpus())"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout
    assert said == b"1\n"


def test_without_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (usable_cpus(tmp_path), compute_threads(tmp_path)) == (6, 6)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="no control groups"),
        pytest.param(v2("/", _="max 100000"), 8, id="v2 without a quota"),
        pytest.param(v2("/", _="300000 100000"), 3, id="v2, a container with its namespace"),
        pytest.param(v2("/", _="250000 100000"), 2, id="a part of a CPU does not count"),
        pytest.param(v2("/", _="20000 100000"), 1, id="less than one CPU"),
        pytest.param(v2("/", _="1600000 100000"), 8, id="more than there are"),
        pytest.param(v2("/a/b", _="max 100000", a="400000 100000", a_b="max 100000"), 4, id="v2, of the group around"),
        pytest.param(v2("/a/b", a="600000 100000", a_b="100000 50000"), 2, id="v2, of the group itself"),
        pytest.param(v2("/a/b", a="200000 100000", a_b="500000 100000"), 2, id="v2, the smallest of nested quotas"),
        pytest.param(v2("/a", b="100000 100000", a_b="100000 100000"), 8, id="v2, quotas of others"),
        pytest.param(v2("/../other", _="200000 100000"), 2, id="v2, a group outside of the namespace"),
        pytest.param(v2("/", _="garbage"), 8, id="unreadable"),
        pytest.param(v1("/", "/", "", -1), 8, id="v1 without a quota"),
        pytest.param(v1("/", "/", "", 300000), 3, id="v1"),
        pytest.param(v1("/docker/1/a", "/docker/1", "", 300000), 3, id="v1, a container without a namespace"),
        pytest.param(v1("/docker/1/a", "/docker/1", "a", 300000), 3, id="v1, a group in this container"),
        pytest.param(v1("/user/a/b", "/", "user", 200000), 2, id="v1, nested"),
        pytest.param(v1("/elsewhere", "/docker/1", "", 200000), 2, id="v1, mounted from another group on"),
    ],
)
def test_quotas(machine: Machine, files: dict[str, str], expected: int) -> None:
    root = machine(files)
    assert usable_cpus(root) == compute_threads(root) == expected


def siblings(*pairs: tuple[int, int]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{pair[0]},{pair[1]}\n"
        for pair in pairs
        for cpu in pair
    }


def test_one_thread_computes_per_core(machine: Machine) -> None:
    pairs = [(0, 4), (1, 5), (2, 6), (3, 7)]
    root = machine(siblings(*pairs))
    assert (usable_cpus(root), compute_threads(root)) == (8, 4)
    root = machine(v2("/", _="300000 100000"))
    assert (usable_cpus(root), compute_threads(root)) == (3, 3)


def test_cores_of_allowed_cpus_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(siblings((0, 1), (2, 3)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3})
    assert (usable_cpus(root), compute_threads(root)) == (3, 2)


def test_the_environment_gets_what_the_user_has_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {"OMP_NUM_THREADS": "7"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 5)
    be_a_good_neighbour()
    assert environment == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "7", "OPENCV_FOR_THREADS_NUM": "5"}


def test_libraries_obey() -> None:
    """PyTorch's OpenMP reads the environment when it is loaded, OpenCV when it first needs threads."""
    code = (
        "from ssd_edge import cpus\n"
        "cpus.usable_cpus = cpus.compute_threads = lambda: 1\n"
        "cpus.be_a_good_neighbour()\n"
        "import cv2, torch; print(torch.get_num_threads(), cv2.getNumThreads())"
    )
    unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert process.stdout.split() == ["1", "1"]
    if "GOMP_SPINCOUNT" in process.stderr:  # not every PyTorch has GNU's
        assert "GOMP_SPINCOUNT = '0'" in process.stderr


def test_commands_are_good_neighbours() -> None:
    """The environment is set before anything that reads it is loaded."""
    code = (
        "import os, sys; from ssd_edge.cli import main\n"
        "main.be_a_good_neighbour = lambda: print(sorted({'torch', 'cv2', 'numpy'} & set(sys.modules)))\n"
        "main.main(['doctor', '--json', '-'])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert output.startswith("[]\n{")
