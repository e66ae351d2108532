"""`ssd-edge build`: its options; tests/export/engine/test_build.py builds."""

from pathlib import Path
from typing import Any

import pytest

from ssd_edge.cli.main import main
from ssd_edge.export.engine import build
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from tests.ssd_edge.cli.complaint import complaint

DEFAULTS = {
    "batch": BatchSizes(1, 1, 1), "workspace_bytes": None, "timing_cache": None, "dla": None, "flavour": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ([], {}),
        (["--batch", "1,4,16"], {"batch": BatchSizes(1, 4, 16)}),
        (
            ["--workspace", "2GiB", "--timing-cache", "kernels", "--dla", "0", "--tensorrt", "rtx"],
            {"workspace_bytes": 2 << 30, "timing_cache": Path("kernels"), "dla": 0, "flavour": "rtx"},
        ),
    ],
)
def test_options(
    options: list[str],
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[Path, Path, dict[str, Any]]] = []

    def build_engine(model: Path, output: Path, **options: Any) -> str:
        asked.append((model, output, options))
        return "the report"

    monkeypatch.setattr(build, "build_engine", build_engine)
    assert main(["build", "m.onnx", "-o", "m.engine", *options]) == 0
    assert asked == [(Path("m.onnx"), Path("m.engine"), DEFAULTS | changes)]
    assert capsys.readouterr().out == "the report\n"


def test_batch_sizes_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "m.onnx", "-o", "m.engine", "--batch", "4,1"]) == 2
    assert "batch sizes 4, 1, 1" in complaint(capsys)


@pytest.mark.parametrize("size", ["2X", "", "G", "-1", "0", "nan", "inf", "1e30", "2GG", "0.1"])
def test_workspaces_that_are_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", "m.onnx", "-o", "m.engine", f"--workspace={size}"])
    assert ended.value.code == 2
    assert "is not a size such as 2G or 512M" in capsys.readouterr().err
