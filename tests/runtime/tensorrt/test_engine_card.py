"""The card beside an engine, and which engines it refuses."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.card import ModelCard
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.tensorrt.engine_card import (
    BatchSizes,
    EngineCard,
    LayerShare,
    check_fresh,
    engine_card_path,
    read_engine_card,
)

MODEL = ModelCard(
    arch="a",
    height=32,
    width=32,
    class_names=("Ei", "Öl"),
    category_ids=(1, 2),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    score_threshold=0.5,
    nms_iou=0.5,
    candidates=9,
    detections=9,
)
PLAN, ONNX = b"an engine", b"an onnx file"
CARD = EngineCard(
    model=MODEL,
    onnx_name="m.onnx",
    onnx_sha256=hashlib.sha256(ONNX).hexdigest(),
    engine_sha256=hashlib.sha256(PLAN).hexdigest(),
    engine_bytes=9,
    flavour="tensorrt",
    tensorrt_version="10.3.0",
    cuda_version="12.6",
    gpu_name="Orin",
    compute_capability="8.7",
    batch=BatchSizes(1, 4, 16),
    dla=1,
    workspace_bytes=2048,
    calibration="abc",
    layers={"int8": LayerShare(3, 0.75, 0.5), "fp32": LayerShare(1, 0.25, None)},
    run_ms=1.25,
)
ORIN = Gpu("Orin", "8.7", "12.6")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine with its card and its ONNX file."""
    path = tmp_path / "an engine.engine"
    path.write_bytes(PLAN)
    (tmp_path / "m.onnx").write_bytes(ONNX)
    write_card(path)
    return path


def write_card(engine: Path, **changes: Any) -> None:
    values = json.loads(CARD.to_json()) | changes
    engine_card_path(engine).write_text(json.dumps({k: v for k, v in values.items() if v != "absent"}))


def refusal(engine: Path, card: EngineCard = CARD, plan: bytes = PLAN, **machine: Any) -> str:
    """What `check_fresh` says."""
    with pytest.raises(ModelFileError) as caught:
        check_fresh(engine, card, plan, **{"flavour": "tensorrt", "version": "10.3.0", "gpu": ORIN, **machine})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "sizes", "again"),
    [
        ("4", (4, 4, 4), "4"),
        ("1,16", (1, 16, 16), "1,16"),
        (" 1, 4 ,16", (1, 4, 16), "1,4,16"),
        ("2,2,2", (2, 2, 2), "2"),
        ("1024", (1024, 1024, 1024), "1024"),
    ],
)
def test_batch_sizes(text: str, sizes: tuple[int, int, int], again: str) -> None:
    batch = BatchSizes.parse(text)
    assert (batch.smallest, batch.optimum, batch.largest) == sizes
    assert str(batch) == again
    assert batch.fixed == (sizes[0] == sizes[2])


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "4,2", "1,2,3,4", "1,", "1.5", "1025", "4,1,8"])
def test_batch_sizes_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="batch"):
        BatchSizes.parse(text)


def test_a_card_survives_its_file(engine: Path) -> None:
    assert engine_card_path(engine).name == "an engine.engine.json"
    assert read_engine_card(engine) == CARD
    without = replace(CARD, cuda_version=None, gpu_name=None, compute_capability=None, dla=None, layers=None)
    assert EngineCard.from_json(without.to_json()) == without


def test_a_card_from_before_runs_were_timed(engine: Path) -> None:
    write_card(engine, run_ms="absent")
    assert read_engine_card(engine) == replace(CARD, run_ms=None)


def test_a_missing_card_is_no_trust(engine: Path) -> None:
    engine_card_path(engine).unlink()
    with pytest.raises(ModelFileError) as caught:
        read_engine_card(engine)
    folder = engine.parent
    assert f"ssd-edge build '{folder}/an engine.onnx' -o '{folder}/an engine.engine'" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_card_version": 2}, "version 2, this ssd-edge reads version 1"),
        ({"engine_card_version": "absent"}, "not an engine card"),
        ({"flavour": "other"}, "flavour 'other'"),
        ({"engine_bytes": -1}, "engine_bytes -1"),
        ({"engine_bytes": None}, "engine_bytes None"),
        ({"dla": "0"}, "dla '0'"),
        ({"gpu_name": 3}, "gpu_name 3"),
        ({"run_ms": 0}, "run_ms 0"),
        ({"run_ms": "1"}, "run_ms '1'"),
        ({"run_ms": float("inf")}, "run_ms inf"),
        ({"onnx_name": "../m.onnx"}, r"onnx_name '\.\./m\.onnx'"),
        ({"onnx_name": "absent"}, "onnx_name"),
        ({"batch": {"smallest": 1, "optimum": 1.5, "largest": 2}}, "whole numbers"),
        ({"batch": [1, 2, 3]}, "incomplete or invalid"),
        ({"layers": [1]}, "incomplete or invalid"),
        ({"model": {}}, "not a model card"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_cards_that_are_none(engine: Path, changes: dict[str, Any], message: str) -> None:
    write_card(engine, **changes)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_engine_card(engine)
    assert "an engine.engine.json" in str(caught.value)
    assert "ssd-edge build" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"text"', "[" * 100_000])
def test_files_that_are_no_cards(engine: Path, text: str) -> None:
    engine_card_path(engine).write_text(text)
    with pytest.raises(ModelFileError, match="not an engine card"):
        read_engine_card(engine)


def test_a_fresh_engine_passes(engine: Path) -> None:
    check_fresh(engine, CARD, PLAN, flavour="tensorrt", version="10.3.0", gpu=ORIN)
    check_fresh(engine, CARD, PLAN, flavour="tensorrt", version="10.3.0", gpu=None)
    check_fresh(engine, CARD, PLAN, flavour="tensorrt", version="10.3.0", gpu=replace(ORIN, cuda_version="12.8"))
    (engine.parent / "m.onnx").unlink()  # it need not travel with the engine
    check_fresh(engine, CARD, memoryview(PLAN), flavour="tensorrt", version="10.3.0", gpu=ORIN)


def test_stale_engines_are_refused_with_the_command(engine: Path) -> None:
    folder = engine.parent
    command = (
        f"build it again here: ssd-edge build {folder}/m.onnx -o '{folder}/an engine.engine' "
        "--batch 1,4,16 --workspace 2048 --dla 1 --tensorrt tensorrt"
    )
    said = {
        "9 bytes": refusal(engine, replace(CARD, engine_bytes=8)),
        "SHA-256 differs": refusal(engine, plan=b"An engine"),
        "has 3 bytes, but its card says 9": refusal(engine, plan=b"an "),
        "built by tensorrt 10.3.0 and this machine has tensorrt 10.3.1": refusal(engine, version="10.3.1"),
        "this machine has rtx 10.3.0": refusal(engine, flavour="rtx"),
        "on Orin (compute capability 8.7) and this is Thor (11.0)": refusal(engine, gpu=Gpu("Thor", "11.0", "13.0")),
    }
    (folder / "m.onnx").write_bytes(b"another onnx file")
    said[f"{folder}/m.onnx has changed"] = refusal(engine)
    for problem, message in said.items():
        assert problem in message
        assert command in message


def test_the_command_does_not_invent_a_folder(engine: Path) -> None:
    (engine.parent / "m.onnx").unlink()
    plain = replace(CARD, batch=BatchSizes(1, 1, 1), dla=None, workspace_bytes=None, flavour="rtx")
    assert plain.rebuild_command(Path("a.engine")) == "ssd-edge build m.onnx -o a.engine --tensorrt rtx"


def test_an_engine_of_rtx_may_move_between_gpus(engine: Path) -> None:
    card = replace(CARD, flavour="rtx", tensorrt_version="1.7.1", gpu_name=None, compute_capability=None)
    check_fresh(engine, card, PLAN, flavour="rtx", version="1.7.1", gpu=ORIN)
    assert "this machine has rtx 1.8.0" in refusal(engine, card, flavour="rtx", version="1.8.0")
