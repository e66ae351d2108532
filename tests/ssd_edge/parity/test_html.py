"""The page: it stands alone, what is in it cannot break out of it, and the command writes it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from ssd_edge.cli.main import main
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import SinkError
from ssd_edge.parity.html import FILE_NAME, write_html
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.report import ParityReport
from ssd_edge.parity.run import parity

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


NASTY = '<script>alert("1")</script>&\''

MOVED = ((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.3, 0.3))

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would see: tags, their addresses, the text; fails where tags do not pair."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.alternatives += [value or "" for name, value in attrs if name == "alt"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(fixed_model: Callable[..., Path], fixed_dataset: Path) -> ParityReport:
    return parity(
        fixed_model("a.onnx"),
        [fixed_model("b.onnx", found=MOVED)],
        read_dataset(fixed_dataset),
        max_drop=MaxDrop.parse("60%"),
        stages=True,
        progress=False,
    )


def test_the_page_stands_alone(report: ParityReport, tmp_path: Path) -> None:
    path = write_html(tmp_path / "new" / "folder", report)
    assert path.name == FILE_NAME
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.addresses) == 4  # two images, each as two pictures
    for address in page.addresses:
        encoded = address.removeprefix("data:image/jpeg;base64,")
        assert encoded != address
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (480, 480, 3)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    assert 'name="viewport"' in text
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_the_page_says_what_the_table_says(report: ParityReport, tmp_path: Path) -> None:
    text = Page(write_html(tmp_path, report).read_text(encoding="utf-8")).text
    comparison = report.models[0].comparison
    assert comparison is not None
    assert comparison.conclusion in text
    assert "1 missed, 1 extra, 0 shifted" in text
    for title in ("logits", "offsets, variances", "boxes, pixels", "scores", "detections", "mAP", "SNR dB"):
        assert title in text


def test_names_cannot_break_out_of_the_page(report: ParityReport, tmp_path: Path) -> None:
    comparison = report.models[0].comparison
    assert comparison is not None
    folder = tmp_path / "a<b>&\"c'"
    folder.mkdir()
    image = folder / "<img src=x>.png"
    image.write_bytes(comparison.worst[0].path.read_bytes())
    stages = tuple(replace(stage, found=NASTY) for stage in comparison.stages)
    worst = tuple(replace(one, path=image) for one in comparison.worst)
    nasty = replace(
        report.models[0],
        model=NASTY,
        precision=NASTY,
        comparison=replace(comparison, stages=stages, worst=worst, conclusion=NASTY),
    )
    everywhere = replace(
        report,
        models=(nasty,),
        reference=replace(report.reference, model=NASTY),
        dataset=NASTY,
        notes=(NASTY,),
        class_names=(NASTY, NASTY),
    )
    text = write_html(tmp_path, everywhere).read_text(encoding="utf-8")
    page = Page(text)
    plain = Page(write_html(tmp_path, report).read_text(encoding="utf-8"))
    assert page.tags.count("img") == plain.tags.count("img")
    assert "script" not in page.tags
    assert page.text.count(NASTY) > 10  # all of it is shown, as text
    assert "<img src=x>.png" in page.text
    assert set(page.alternatives) == {f"reference: {NASTY} (2 detections)", f"{NASTY} (2 detections)"}


def test_a_failure_leaves_the_old_page(report: ParityReport, tmp_path: Path) -> None:
    path = write_html(tmp_path, report)
    before = path.read_text(encoding="utf-8")
    comparison = report.models[0].comparison
    assert comparison is not None
    comparison.worst[1].path.unlink()  # read after the first pair has been written
    with pytest.raises(Exception, match="cannot read image"):
        write_html(tmp_path, report)
    assert path.read_text(encoding="utf-8") == before
    assert [entry.name for entry in tmp_path.glob(".*")] == []
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write"):
        write_html(tmp_path / "file", report)


def test_the_command_writes_text_json_and_html(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, folder = tmp_path / "figures.json", tmp_path / "page"
    broken = tiny.write(tmp_path / "card.onnx", nms_iou=0.05)
    command = [
        "parity",
        str(tiny.onnx),
        str(broken),
        "--data",
        str(tiny.data),
        "--threads",
        "1",
        "--json",
        str(figures),
    ]
    assert main([*command, "--html", str(folder), "--images", "3"]) == 3  # the report is written all the same
    captured = capsys.readouterr()
    assert "first stage that departs: card (nms_iou 0.05, not 0.5" in captured.out
    assert captured.out.rstrip().endswith(str(folder / FILE_NAME))
    assert "parity failed" in captured.err
    assert json.loads(figures.read_text())["images"] == 3
    assert "first stage that departs: card" in (folder / FILE_NAME).read_text(encoding="utf-8")
    assert main([*command, "--max-drop", "0.99"]) == 0
    assert "stage" not in capsys.readouterr().out  # only where asked for
    assert "comparison" not in json.loads(figures.read_text())["models"][0]


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--html", "{file}"], "cannot write to", 1),
        (["--images", "0"], "not a whole number from 1", 2),
        (["--score", "1"], "not a number from 0 to below 1", 2),
    ],
)
def test_bad_options_are_refused_before_the_work(
    options: list[str], message: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    options = [option.format(file=tmp_path / "file") for option in options]
    command = ["parity", "none.onnx", "none.onnx", "--data", "none", *options]
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
    else:
        assert main(command) == status
    assert message in capsys.readouterr().err
