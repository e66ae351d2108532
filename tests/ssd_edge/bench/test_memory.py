"""Peak memory of a process."""

from pathlib import Path

from ssd_edge.bench.memory import peak_memory_bytes


def test_peak_memory_is_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n")
    assert peak_memory_bytes(status) == 1234 * 1024
    assert peak_memory_bytes() > 20 << 20
    assert peak_memory_bytes(tmp_path / "no proc here") > 20 << 20  # by getrusage
