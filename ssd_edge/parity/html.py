"""A `ParityReport` as one HTML file that opens anywhere: pictures are in it, scripts and the network are not needed."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_edge.files import atomic_path
from ssd_edge.images import load_image
from ssd_edge.parity.compare_detections import DetectionsDifference
from ssd_edge.parity.pictures import jpeg, side_by_side
from ssd_edge.parity.report import COLUMNS, ModelParity, ParityReport, stage_figures, verdict
from ssd_edge.parity.stages import UNITS, Stage, StagedComparison, WorstImage
from ssd_edge.parity.tolerances import DECODING

FILE_NAME = "parity.html"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #81c784; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 0 auto; padding: 1rem; }
body { overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
.bad { color: var(--bad); font-weight: bold; }
.good { color: var(--good); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; margin: 0 0 1.5rem; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border: 1px solid var(--line); }
"""


def write_html(folder: Path, report: ParityReport) -> Path:
    """Write `parity.html` into `folder`; returns its path. An earlier one is replaced.

    Args:
        report: of `parity` with `stages`; models without a comparison have a line in the first table only.

    Raises:
        SinkError: the folder cannot be made or written to.
        DatasetError: an image cannot be read any more.
    """
    path = folder / FILE_NAME
    with atomic_path(path) as part, open(part, "w", encoding="utf-8") as file:
        for piece in _page(report):  # as they come: only one pair of pictures is in memory
            file.write(piece)
    return path


def _page(report: ParityReport) -> Iterable[str]:
    title = f"Parity on {report.dataset}"
    yield f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{report.images} images. Reference: <b>{escape(report.reference.model)}</b>. At most {escape(str(report.max_drop))} of
mAP may be lost, so AP ≥ {report.floor:.4f}.</p>
"""
    rows = [_model_row(model, report) for model in (report.reference, *report.models)]
    yield _table(("model", "precision", "AP", "AP50", "drop", ""), rows)
    yield "".join(f"<p>Note: {escape(note)}</p>\n" for note in report.notes)
    for model in report.models:
        if model.comparison is not None:
            yield f"<h2>{escape(model.model)}</h2>\n"
            yield _comparison(model.comparison)
            for image in model.comparison.worst:
                yield _image(image, report, model)
    yield "</body></html>\n"


def _model_row(model: ModelParity, report: ParityReport) -> list[str]:
    if model is report.reference:
        word = "reference"
    else:
        word = _coloured("pass" if model.passed else "falls short", bad=not model.passed)
    names = [_cell(model.model), _cell(model.precision)]
    return [*names, *map(_number, (f"{model.ap:.4f}", f"{model.ap50:.4f}", f"{model.drop:+.4f}")), f"<td>{word}</td>"]


def _comparison(comparison: StagedComparison) -> str:
    table = _table(("stage", *COLUMNS, "allowed", ""), [_stage_row(stage) for stage in comparison.stages])
    bad = comparison.first is not None
    return f"""<p>{_coloured(comparison.conclusion, bad=bad)}</p>
{table}<p>Bounds of {escape(comparison.tolerance.precision)}. Boxes are in pixels of the model's input. Decoding: how
far boxes and scores are from what the model's own offsets and logits decode into, at most {DECODING:.0e}.</p>
<p>{escape(_detections_line(comparison.detections))}</p>
<h3>Images on which detections differ most</h3>
"""


def _stage_row(stage: Stage) -> list[str]:
    name = f"{stage.name}, {UNITS[stage.name]}" if UNITS.get(stage.name) else stage.name
    word = _coloured(verdict(stage).lower(), bad=bool(stage.departs)) if stage.departs is not None else "not compared"
    if stage.difference is None or stage.found:
        middle = [f'<td colspan="{len(COLUMNS)}">{escape(stage.found)}</td>']
    else:
        middle = [_number(figure) for figure in stage_figures(stage)]
    return [_cell(name), *middle, _cell(stage.allowed), f"<td>{word}</td>"]


def _detections_line(counts: DetectionsDifference) -> str:
    return (
        f"Pairs of detections above {counts.score:g}: scores differ by up to {counts.score_max:.4f}, "
        f"{counts.score_mean:.4f} on average; IoU is {counts.iou_min:.3f} or more, {counts.iou_mean:.4f} on average."
    )


def _image(image: WorstImage, report: ParityReport, model: ModelParity) -> str:
    pictures = side_by_side(load_image(image.path), image.pairs, report.class_names)
    names = (f"reference: {report.reference.model}", model.model)
    counts = (len(image.pairs.reference), len(image.pairs.model))
    figures = "".join(
        _figure(picture, f"{name} ({count} detections)")
        for picture, name, count in zip(pictures, names, counts, strict=True)
    )
    return f'<h4>{escape(str(image.path))}: {escape(image.counts)}</h4>\n<div class="pair">{figures}</div>\n'


def _figure(picture_bgr: NDArray[np.uint8], caption: str) -> str:
    data = base64.b64encode(jpeg(picture_bgr)).decode()
    height, width = picture_bgr.shape[:2]
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><img width="{width}" height="{height}" '
        f'alt="{escape(caption)}" src="data:image/jpeg;base64,{data}"></figure>'
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>\n'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def _coloured(text: str, *, bad: bool) -> str:
    return f'<span class="{"bad" if bad else "good"}">{escape(text)}</span>'
