"""INT8 export: one table for two targets, the bound on mAP held by giving layers back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ssd_edge.calib.images import CalibrationImages, calibration_images
from ssd_edge.calib.table import CalibrationTable
from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.cli.main import main
from ssd_edge.errors import GateFailedError, ModelFileError, SsdEdgeError
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.export import trace
from ssd_edge.export.compare import Comparison
from ssd_edge.export.engine import cache as engine_cache
from ssd_edge.export.int8.convert import int8_from_float
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.onnx_graph import metadata_of
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.runtime.backends import ort_session
from ssd_edge.runtime.detector import open_detector
from tests.detectors.tiny_detector import Tiny


def metadata(path: Path) -> dict[str, str]:
    return metadata_of(onnx.load(path))


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_a_file_says_what_it_is(tiny: Tiny, images: CalibrationImages, target: str, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    report = export_onnx(tiny.checkpoint, path, precision="int8", int8=Int8Options(images, target=target))
    found = metadata(path)
    assert ModelCard.from_json(found[ONNX_METADATA_KEY]).precision == "int8"
    assert len(found["ssd_edge_calibration"]) == 64
    heads = {"int8_heads": False} if target == "tensorrt" else {}
    expected = {"target": target, "method": "minmax", "images": 6, "kept_float": [], **heads}
    assert json.loads(found["ssd_edge_int8"]) == expected
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(path)
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in onnx.load(path).graph.initializer)
    assert half == (target == "tensorrt")
    assert report.comparison.detections_equal >= 0.5 * report.comparison.detections > 0
    assert f"Q/DQ placed for {target}" in str(report)
    with open_detector(path) as detector:
        assert evaluate(detector, tiny.dataset, progress=False).metrics["AP50"] > 0.7


def test_pairs_in_half_are_computed_as_they_stand(
    tiny: Tiny, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's optimisations make garbage of them in some graphs; here it is enough that they are off."""
    asked: list[dict[str, str]] = []
    real = ort_session.leave_pairs_alone

    def watched(options: Any, metadata: dict[str, str]) -> None:
        real(options, metadata)
        asked.append({name: options.get_session_config_entry(name) for name in ("session.disable_quant_qdq",)})

    for target in ("cpu", "tensorrt"):
        path = tmp_path / f"{target}.onnx"
        export_onnx(tiny.checkpoint, path, precision="int8", int8=Int8Options(images, target=target))
    monkeypatch.setattr(ort_session, "leave_pairs_alone", watched)
    with open_detector(tmp_path / "tensorrt.onnx"):
        pass
    assert asked == [{"session.disable_quant_qdq": "1"}]


def test_heads_are_int8_where_asked_for(tiny: Tiny, images: CalibrationImages, tmp_path: Path) -> None:
    command = f"export {tiny.checkpoint} --precision int8 --calib {tiny.data} --images 6 --threads 1"
    convolutions = {}
    for name, option in (("half", ""), ("int8", "--int8-heads")):
        path = tmp_path / f"{name}.onnx"
        assert main([*command.split(), "-o", str(path), *option.split()]) == 0
        assert json.loads(metadata(path)["ssd_edge_int8"])["int8_heads"] == (name == "int8")
        graph = onnx.load(path).graph
        made = {name: node for node in graph.node for name in node.output}
        integer = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in made]
        convolutions[name] = {made[node.input[1]].input[0] for node in integer}
    assert convolutions["half"] < convolutions["int8"]
    assert all(name.startswith("model.head.") for name in convolutions["int8"] - convolutions["half"])


def test_build_refuses_a_file_for_the_cpu(
    tiny: Tiny, images: CalibrationImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "int8.onnx"
    export_onnx(tiny.checkpoint, path, precision="int8", int8=Int8Options(images, target="cpu"))
    assert main(["build", str(path), "-o", str(tmp_path / "int8.engine")]) == 1
    assert "--precision int8 --calib DATA --target tensorrt" in capsys.readouterr().err
    with pytest.raises(SsdEdgeError, match="for the target cpu"):  # so that `stream` on a GPU runs it on the CPU
        engine_cache.check_target(path)


def test_judging_on_calibration_images_is_told(
    tiny: Tiny, images: CalibrationImages, caplog: pytest.LogCaptureFixture
) -> None:
    options = Int8Options(images, target="cpu", validation=tiny.dataset)
    result = int8_from_float(onnx.load(tiny.onnx), tiny.card, options)
    assert "warning: 6 of 6 images that mAP is measured on are calibrated or trained on too" in result.notes


def test_both_targets_use_one_table(tiny: Tiny, images: CalibrationImages, tmp_path: Path) -> None:
    table = tmp_path / "ranges.json"
    for target in ("cpu", "tensorrt"):
        options = Int8Options(images, target=target, table=table)
        export_onnx(tiny.checkpoint, tmp_path / f"{target}.onnx", precision="int8", int8=options)
    fingerprints = {metadata(tmp_path / f"{target}.onnx")["ssd_edge_calibration"] for target in ("cpu", "tensorrt")}
    assert fingerprints == {CalibrationTable.load(table).fingerprint}


def test_a_table_of_other_images_is_refused(tiny: Tiny, images: CalibrationImages, tmp_path: Path) -> None:
    table, path = tmp_path / "ranges.json", tmp_path / "int8.onnx"
    export_onnx(tiny.checkpoint, path, precision="int8", int8=Int8Options(images, target="cpu", table=table))
    fewer = CalibrationImages(images.paths[:3])
    with pytest.raises(ModelFileError, match="from other images"):
        export_onnx(tiny.checkpoint, path, precision="int8", int8=Int8Options(fewer, target="cpu", table=table))


def spoil(table: Path, *tensors: str) -> None:
    """Make the ranges of these tensors a hundredth of what they are."""
    values = json.loads(table.read_text())
    for name in tensors or values["ranges"]:
        low, high = values["ranges"][name]["minmax"]
        values["ranges"][name]["minmax"] = [low / 100, high / 100]
    table.write_text(json.dumps(values))


@pytest.fixture
def table(tiny: Tiny, images: CalibrationImages, tmp_path: Path) -> Path:
    """The ranges of the tiny detector, in a file."""
    path = tmp_path / "ranges.json"
    int8_from_float(onnx.load(tiny.onnx), tiny.card, Int8Options(images, table=path))
    return path


def test_recovery_gives_back_the_layer_that_hurts(
    tiny: Tiny, images: CalibrationImages, table: Path, tmp_path: Path
) -> None:
    layer, image = "backbone.blocks.0.0", "div"  # the normalised image, which nothing else reads
    spoil(table, image)
    bound = Int8Options(
        images, target="cpu", table=table, max_drop=MaxDrop.parse("0.2"), validation=tiny.dataset, progress=False
    )
    report = export_onnx(tiny.checkpoint, tmp_path / "int8.onnx", precision="int8", int8=bound)
    recovery = json.loads((tmp_path / "int8.recovery.json").read_text())
    assert recovery["ranking"][0]["layer"] == layer
    assert recovery["chosen"]["kept_float"] == [layer]
    assert recovery["curve"][0]["ap"] < recovery["floor"] <= recovery["chosen"]["ap"]
    assert recovery["cost_unit"] == "time"
    assert (tmp_path / "int8.recovery.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(metadata(tmp_path / "int8.onnx")["ssd_edge_int8"])["kept_float"] == [layer]
    assert f"1 of {len(recovery['ranking'])} layers given back to float" in str(report)
    with open_detector(tmp_path / "int8.onnx") as detector:
        assert evaluate(detector, tiny.dataset, progress=False).metrics["AP"] == pytest.approx(recovery["chosen"]["ap"])
    export_onnx(tiny.checkpoint, tmp_path / "int8.onnx")  # another model of this name: the curve is not its
    assert not [*tmp_path.glob("int8.recovery.*")]


def test_without_a_bound_a_spoiled_model_is_refused(
    tiny: Tiny, images: CalibrationImages, table: Path, tmp_path: Path
) -> None:
    spoil(table)
    options = Int8Options(images, target="cpu", table=table)
    with pytest.raises(GateFailedError, match="calibrate on images such as the model will see"):
        export_onnx(tiny.checkpoint, tmp_path / "int8.onnx", precision="int8", int8=options)
    assert not (tmp_path / "int8.onnx").exists()


def test_a_bound_that_cannot_hold_is_a_failed_gate(tiny: Tiny, images: CalibrationImages, tmp_path: Path) -> None:
    bound = Int8Options(
        images, target="cpu", max_drop=MaxDrop.parse("0"), validation=tiny.dataset, reference_ap=1.5, progress=False
    )
    with pytest.raises(GateFailedError, match=r"AP ≥ 1\.5000 was asked for; allow a larger --max-drop"):
        export_onnx(tiny.checkpoint, tmp_path / "int8.onnx", precision="int8", int8=bound)
    assert not (tmp_path / "int8.onnx").exists()
    assert (tmp_path / "int8.recovery.json").exists()


def test_an_interrupted_export_leaves_nothing(
    tiny: Tiny, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(tiny.checkpoint, tmp_path / "int8.onnx", precision="int8", int8=Int8Options(images, target="cpu"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--precision int8", "give --calib DATA"),
        ("--calib {data}", "give --precision int8 too"),
        ("--precision fp16 --max-drop 1%", "give --precision int8 too"),
        ("--target cpu --images 5", "--images, --target: about int8 alone"),
        ("--precision fp16 --int8-heads", "--int8-heads: about int8 alone"),
        ("--precision int8 --calib {data} --target cpu --int8-heads", "has int8 heads in any case"),
        ("--precision int8 --calib {data} --max-drop 1%", "give --data VALIDATION"),
        ("--precision int8 --calib {data} --data {data} --max-drop lots", "'lots' is not understood"),
        ("--precision int8 --calib {data} --data {data} --qat 2", "give --max-drop too"),
    ],
)
def test_wrong_usage(
    tiny: Tiny, options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"export {tiny.checkpoint} -o {tmp_path / 'm.onnx'} {options.format(data=tiny.data)}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-o {text}/new/m.onnx", "-o {tmp}/m.onnx --table {text}/ranges.json"])
def test_where_nothing_can_be_written_is_told_before_the_long_work(
    tiny: Tiny, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "onnx_from_predictor", lambda *_, **__: pytest.fail("too late"))
    text = tmp_path / "text"
    text.touch()
    where = option.format(text=text, tmp=tmp_path)
    assert main(f"export {tiny.checkpoint} --precision int8 --calib {tiny.data} {where}".split()) == 1
    assert "cannot write to" in capsys.readouterr().err


def test_images_of_another_domain_are_told(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import cv2

    for number in range(4):
        grey = np.full((96, 96, 3), 126 + number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), grey)
    options = Int8Options(calibration_images(tmp_path, 4), target="cpu", validation=tiny.dataset)
    result = int8_from_float(onnx.load(tiny.onnx), tiny.card, options)
    assert "another domain" in caplog.text
    assert any("another domain" in note for note in result.notes)
