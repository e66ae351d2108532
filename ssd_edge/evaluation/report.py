"""A folder that shows where a detector errs: two plots, a sheet of images, and all figures as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.evaluation.confusion import Confusion, confusion
from ssd_edge.evaluation.evaluate import Evaluation
from ssd_edge.evaluation.plot_images import plot_worst_images
from ssd_edge.evaluation.plots import plot_confusion, plot_curves
from ssd_edge.evaluation.worst_images import ImageErrors, worst_images
from ssd_edge.files import atomic_path

CONFUSION_PNG = "confusion.png"
CURVES_PNG = "precision_recall.png"
IMAGES_PNG = "worst_images.png"
REPORT_JSON = "report.json"
DEFAULT_SCORE = 0.4  # as of `stream`; for a detector that finds nothing right, so that no threshold is best


def write_report(
    folder: Path, evaluation: Evaluation, dataset: DetectionDataset, *, score: float | None = None
) -> tuple[Path, ...]:
    """Write `confusion.png`, `precision_recall.png`, `worst_images.png` and `report.json`; returns their paths.

    Files of an earlier report are replaced, others in the folder stay.

    Args:
        evaluation: of detections on `dataset`.
        score: what counts as detected; the threshold of the best F1 when None.

    Raises:
        SinkError: the folder cannot be made or written to.
        DatasetError: an image of the sheet cannot be read.
    """
    if score is None:
        score = evaluation.best_f1.score if evaluation.best_f1.recall > 0 else DEFAULT_SCORE
    matches = evaluation.matches
    paths = tuple(folder / name for name in (CONFUSION_PNG, CURVES_PNG, IMAGES_PNG, REPORT_JSON))
    counted = confusion(matches, dataset.class_names, score=score)
    curves = {dataset.class_names[label]: matches.curve(label) for label in matches.labels}
    worst = worst_images(matches, score=score)
    plot_confusion(paths[0], counted)
    plot_curves(paths[1], {name: curve for name, curve in curves.items() if curve.truths}, score=score)
    plot_worst_images(paths[2], worst, matches, dataset, score=score)
    with atomic_path(paths[3]) as part:
        content = _content(evaluation, dataset, counted, worst)
        part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return paths


def _content(
    evaluation: Evaluation, dataset: DetectionDataset, counted: Confusion, worst: list[ImageErrors]
) -> dict[str, object]:
    """What the evaluation measured, then what was counted at the one threshold."""
    at_score = evaluation.matches.curve().at(counted.score)
    return {
        "dataset": dataset.name,
        **evaluation.to_dict(),
        "at_score": {
            "score": counted.score,
            "precision": None if math.isnan(at_score.precision) else at_score.precision,
            "recall": at_score.recall,
            "confusion": {
                "rows": "annotated as",
                "columns": "detected as",
                "names": [*counted.class_names, "background"],
                "counts": counted.counts.tolist(),
            },
            "worst_images": [
                {
                    "file": str(dataset.records[errors.image].path),
                    "missed": errors.missed,
                    "false": errors.false,
                    "found": errors.found,
                }
                for errors in worst
            ],
        },
    }
