"""`parity`: measure models against a reference, in one pass over the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.choices import SHOWN_SCORE
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.detections import Detections
from ssd_edge.errors import DatasetError, GateFailedError, ModelFileError, UsageError
from ssd_edge.evaluation.evaluate import Evaluation, evaluate_detections, scored_classes
from ssd_edge.images import load_image
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.report import ModelParity, ParityReport
from ssd_edge.parity.stages import RunningComparison
from ssd_edge.parity.tapped_detector import TappedDetector, open_tapped
from ssd_edge.picks import spread_evenly


def parity(
    reference: Path,
    models: Sequence[Path],
    dataset: DetectionDataset,
    *,
    max_drop: MaxDrop,
    stages: bool = False,
    images: int | None = None,
    score: float = SHOWN_SCORE,
    threads: int | None = None,
    progress: bool = True,
) -> ParityReport:
    """Measure each model's mAP on `dataset` and compare it with the reference's.

    Every image goes through every network once. All models are open at the same time; of the images and their
    tensors one is in memory at a time.

    Args:
        reference: a checkpoint, which runs in PyTorch; or any other model file.
        stages: compare logits, offsets, decoded boxes, scores and kept detections too. An `.onnx` file then needs the
            `export` extra.
        images: compare on so many images, spread evenly over the dataset; on all when None.
        score: with `stages`, detections above it are counted; a card's threshold where that is higher.

    Raises:
        ModelFileError: a file that cannot be opened, or a model that detects other classes.
        GateFailedError: the reference itself finds nothing, so there is nothing to compare with.
        DatasetError: no images, no class in common, or an image that cannot be read.
        UsageError: `images` is below 1, or `score` out of range.
    """
    if not 0 <= score < 1:
        raise UsageError(f"score {score}; expected a number from 0 to below 1")
    dataset = _spread(dataset, images)
    paths = (reference, *models)
    with _open_all(paths, threads=threads, heads=stages) as detectors:
        cards = [detector.card for detector in detectors]
        scored_classes(dataset, cards[0].class_names, None)  # refuses before any image is read
        score = max(score, *(card.score_threshold for card in cards))
        comparisons = [RunningComparison(cards[0], card, score=score) if stages else None for card in cards[1:]]
        found = _run(detectors, comparisons, dataset, progress=progress)
        notes = [*_parent_notes(paths, cards), *(note for detector in detectors for note in detector.notes)]
    figures = [evaluate_detections(detections, dataset, cards[0].class_names) for detections in found]
    reference_ap = figures[0].metrics["AP"]
    _check_reference(reference, reference_ap, dataset)
    floor = max_drop.floor(reference_ap)
    rows = [
        _row(path, card, figure, comparison, reference=reference_ap, floor=floor)
        for path, card, figure, comparison in zip(paths, cards, figures, [None, *comparisons], strict=True)
    ]
    return ParityReport(
        dataset=dataset.name,
        images=len(dataset),
        max_drop=max_drop,
        floor=floor,
        reference=rows[0],
        models=tuple(rows[1:]),
        class_names=cards[0].class_names,
        notes=tuple(dict.fromkeys((*notes, *figures[0].notes))),
    )


def _spread(dataset: DetectionDataset, images: int | None) -> DetectionDataset:
    if not len(dataset):
        raise DatasetError(f"{dataset.name}: no images to compare on; give a folder or split that has some")
    if images is None:
        return dataset
    if images < 1:
        raise UsageError(f"{images} images to compare on; expected at least 1")
    return replace(dataset, records=tuple(spread_evenly(dataset.records, images)))


@contextmanager
def _open_all(paths: Sequence[Path], *, threads: int | None, heads: bool) -> Iterator[list[TappedDetector]]:
    """All models at the same time, the reference first."""
    with ExitStack() as stack:
        detectors = [stack.enter_context(open_tapped(path, threads=threads, heads=heads)) for path in paths]
        for path, detector in zip(paths, detectors, strict=True):
            _check_classes(paths[0], detectors[0].card, path, detector.card)
        yield detectors


def _run(
    detectors: Sequence[TappedDetector],
    comparisons: Sequence[RunningComparison | None],
    dataset: DetectionDataset,
    *,
    progress: bool,
) -> list[list[Detections]]:
    """The detections of each model in each image; the comparison of each but the first is updated on the way."""
    found: list[list[Detections]] = [[] for _ in detectors]
    with tqdm(dataset.records, unit="image", leave=False, disable=None if progress else True) as bar:
        for index, record in enumerate(bar):
            frame = load_image(record.path)
            reference = detectors[0].detect(frame)
            found[0].append(reference[1])
            for detections, detector, comparison in zip(found[1:], detectors[1:], comparisons, strict=True):
                model = detector.detect(frame)
                detections.append(model[1])
                if comparison is not None:
                    comparison.update(index, record.path, reference, model)
    return found


def _check_classes(reference_path: Path, reference: ModelCard, path: Path, card: ModelCard) -> None:
    if card.class_names != reference.class_names:
        ours, theirs = (", ".join(names.class_names[:5]) for names in (card, reference))
        raise ModelFileError(
            f"{path} detects {len(card.class_names)} classes ({ours}, …), but {reference_path} "
            f"{len(reference.class_names)} ({theirs}, …); compare models that were exported from it"
        )


def _check_reference(path: Path, ap: float, dataset: DetectionDataset) -> None:
    if not ap > 0:
        raise GateFailedError(
            f"{path} has AP {ap:.4f} on {dataset.name}: there is nothing to compare with; "
            "give the data that it was trained for, or train it further"
        )


def _parent_notes(paths: Sequence[Path], cards: Sequence[ModelCard]) -> list[str]:
    """Which models come from a checkpoint that is neither here nor the reference's own origin."""
    related = {file_sha256(path) for path in paths} | {cards[0].parent_sha256, None}
    strangers = [path for path, card in zip(paths, cards, strict=True) if card.parent_sha256 not in related]
    # An engine's origin is its ONNX file, which need not be among the models.
    strangers = [path for path in strangers if path.suffix != ".engine"]
    return [f"{path} was exported from another checkpoint file than {paths[0]}" for path in strangers]


def _row(
    path: Path,
    card: ModelCard,
    figure: Evaluation,
    comparison: RunningComparison | None,
    *,
    reference: float,
    floor: float,
) -> ModelParity:
    ap = figure.metrics["AP"]
    staged = None if comparison is None else comparison.result(ap=ap, reference_ap=reference, floor=floor)
    return ModelParity(
        model=str(path),
        precision=card.precision,
        ap=ap,
        ap50=figure.metrics["AP50"],
        drop=reference - ap,
        passed=ap >= floor,
        comparison=staged,
    )
