"""Outputs are checked before the work without a trace, and written after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssd_edge.bench.outputs import Outputs
from ssd_edge.errors import SinkError, UsageError
from tests.ssd_edge.bench.made_up import REPORT


def test_what_is_asked_for_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outputs = Outputs(tmp_path / "a.json", tmp_path / "new" / "a.md", tmp_path / "a.png")
    outputs.check()
    outputs.write(REPORT)
    assert (tmp_path / "a.json").read_text() == REPORT.to_json() + "\n"
    assert (tmp_path / "new" / "a.md").read_text() == REPORT.markdown()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Outputs().check()
    Outputs().write(REPORT)
    Outputs(json=tmp_path / "a.json").write(REPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_check_leaves_old_files_as_they_are_and_makes_no_new_ones(tmp_path: Path) -> None:
    old = tmp_path / "a.json"
    old.write_text("old")
    Outputs(json=old, markdown=tmp_path / "a.md").check()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert old.read_text() == "old"


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"plot": "a.jpg"}, UsageError, "a.jpg does not end in .png"),
        ({"json": "a.x", "markdown": "folder/../a.x"}, UsageError, "two outputs have the same name"),
        ({"json": "folder"}, SinkError, "folder: it is a folder; give the name of a file"),
        ({"markdown": "file/a.md"}, SinkError, "file"),
    ],
)
def test_what_would_fail_in_the_end_fails_at_once(
    names: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        Outputs(**{kind: tmp_path / name for kind, name in names.items()}).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_there_may_be_nothing_to_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    failed = replace(REPORT, models=REPORT.models[1:])
    with pytest.raises(UsageError):
        Outputs(plot=tmp_path / "a.png").write(failed)
