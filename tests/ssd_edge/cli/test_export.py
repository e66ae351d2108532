"""`ssd-edge export`."""

from pathlib import Path

import pytest

from ssd_edge.calib.table import CalibrationSettings
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.choices import METHODS
from ssd_edge.cli.main import build_parser, main
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.models.create import create_model
from tests.ssd_edge.cli.complaint import complaint
from tests.ssd_edge.cli.option_help import option_help


def test_weights_that_do_not_fit_the_card_are_refused(
    tmp_path: Path, fixed_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("ssdlite320_mobilenet_v3_large", 3)
    card = model.make_card(("one", "two"), (1, 2))
    save_checkpoint(tmp_path / "c.pt", Checkpoint(card, model.state_dict()))
    assert main(["export", str(tmp_path / "c.pt"), "-o", str(tmp_path / "m.onnx")]) == 1
    assert "the weights do not fit the card" in complaint(capsys)
    assert not (tmp_path / "m.onnx").exists()


def test_the_command_line_knows_the_methods() -> None:
    for method in METHODS:
        args = build_parser().parse_args(["export", "c.pt", "-o", "m.onnx", "--method", method])
        assert args.method == method
    for unknown in ("maxmin", ""):
        with pytest.raises(SystemExit):
            build_parser().parse_args(["export", "c.pt", "-o", "m.onnx", "--method", unknown])


@pytest.mark.parametrize(
    ("option", "default"),
    [("--seed", CalibrationSettings.seed), ("--target", Int8Options.target), ("--method", Int8Options.method)],
)
def test_help_states_the_defaults_of_the_library(
    option: str, default: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"({default})" in option_help("export", option, monkeypatch, capsys)


def test_options_of_int8_reach_the_library(
    fixed_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Int8Options] = []

    def export_nothing(*_: object, int8: Int8Options, **__: object) -> None:
        asked.append(int8)

    monkeypatch.setattr("ssd_edge.export.onnx_export.export_onnx", export_nothing)
    command = ["export", "c.pt", "-o", "m.onnx", "--precision", "int8", "--calib", str(fixed_dataset)]
    assert main(command) == 0
    table = tmp_path / "table.json"
    options = ["--seed", "3", "--target", "cpu", "--method", "mse", "--table", str(table), "--images", "1"]
    assert main([*command, *options, "--threads", "2"]) == 0
    assert main([*command, "--int8-heads"]) == 0
    plain, full, heads = asked
    assert plain == Int8Options(plain.images)
    assert len(plain.images) == 2
    settings = CalibrationSettings(seed=3)
    assert full == Int8Options(full.images, target="cpu", method="mse", table=table, settings=settings, threads=2)
    assert len(full.images) == 1
    assert heads.int8_heads
