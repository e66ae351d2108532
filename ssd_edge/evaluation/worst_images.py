"""The images on which a detector errs most, at one score threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssd_edge.evaluation.voc_matching import Matches


@dataclass(frozen=True)
class ImageErrors:
    """The errors in one image.

    Attributes:
        image: index into `DetectionDataset.records`.
        found, missed: annotated boxes, without crowd and difficult ones.
        false: detections that found no box, or one that was found already.
        weight: a missed box counts 1, a false detection its score.
    """

    image: int
    found: int
    missed: int
    false: int
    weight: float


def worst_images(matches: Matches, *, score: float, most: int = 16) -> list[ImageErrors]:
    """At most `most` images that have errors, the worst first, equals in the dataset's order.

    Args:
        score: detections with a score above it are counted.
    """
    correct, false, missed = (of(score) for of in (matches.correct_above, matches.false_above, matches.missed_above))
    images = 1 + int(max(matches.truth.images.max(initial=-1), matches.found.images.max(initial=-1)))
    found_of = np.bincount(matches.found.images[correct], minlength=images)
    missed_of = np.bincount(matches.truth.images[missed], minlength=images)
    false_of = np.bincount(matches.found.images[false], minlength=images)
    weights = missed_of + np.bincount(matches.found.images[false], matches.scores[false], minlength=images)
    worst = [image for image in np.argsort(-weights, kind="stable").tolist() if missed_of[image] or false_of[image]]
    return [
        ImageErrors(image, int(found_of[image]), int(missed_of[image]), int(false_of[image]), float(weights[image]))
        for image in worst[:most]
    ]
