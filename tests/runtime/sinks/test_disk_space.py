"""Old files are removed to leave room on the disk, and no more of them than necessary."""

import re
from pathlib import Path

from ssd_edge.runtime.sinks.disk_space import remove_oldest


def test_remove_oldest_takes_no_more_than_it_must(tmp_path: Path) -> None:
    for name in ("a1.x", "a1.y", "a2.x", "a3.x"):
        (tmp_path / name).write_bytes(bytes(10))
    remove_oldest(tmp_path, re.compile("a.*"), 20, tmp_path / "a3.x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a2.x", "a3.x"]
    remove_oldest(tmp_path, re.compile("a.*"), 20, tmp_path / "a3.x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a2.x", "a3.x"]
