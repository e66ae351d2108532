"""One calibration: the images go through the graph once, and every method's ranges come out."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from tqdm import tqdm

from ssd_edge.calib.activations import ActivationRunner, activation_tensors, check_tensors, first_non_finite
from ssd_edge.calib.images import CalibrationImages
from ssd_edge.calib.methods import all_ranges, range_by
from ssd_edge.calib.observers import TensorStatistics
from ssd_edge.calib.table import CalibrationSettings, CalibrationTable
from ssd_edge.errors import DatasetError, ModelFileError
from ssd_edge.images import load_image
from ssd_edge.picks import spread_evenly
from ssd_edge.runtime.preprocess import preprocess

logger = logging.getLogger(__name__)

DEFAULT_SETTINGS = CalibrationSettings()
DOMAIN_IMAGES = 16  # that a table is compared with
# A tensor is far off when its usual extent is so many times larger or smaller. Measured with SSDlite320 trained on
# BCCD: none of its tensors is on other BCCD images, more than a quarter of them on COCO's or on much darker ones.
FAR = 1.5
# Share of tensors far off from which on there is a warning: (1 + 3 / images) times this, for single images differ.
FAR_TENSORS = 0.08


def calibrate(
    model: onnx.ModelProto,
    images: Sequence[Path] | CalibrationImages,
    *,
    size_hw: tuple[int, int],
    tensors: Collection[str] | None = None,
    settings: CalibrationSettings = DEFAULT_SETTINGS,
    threads: int | None = None,
    progress: bool = True,
) -> CalibrationTable:
    """Run the images through an fp32 graph and give the range of each tensor by each method.

    Images go one by one through the runtime's `preprocess`; what is kept of them is running statistics, 64 kB a
    tensor, so memory does not grow with the number of images.

    Args:
        model: the fp32 graph, with its weights inside; it is not changed.
        size_hw: (height, width) in pixels of its input.
        tensors: whose ranges are wanted; None: all of `activation_tensors`.
        threads: that ONNX Runtime uses; None: one a physical core.
        progress: show a progress bar where standard error is a terminal.

    Raises:
        DatasetError: no images, or one that cannot be read.
        ModelFileError: the graph is not one of the contract's in fp32, a tensor is none of its float activations, or
            an activation is NaN or infinite: names the first such layer and the image.
    """
    chosen = images if isinstance(images, CalibrationImages) else CalibrationImages(tuple(map(Path, images)))
    names = activation_tensors(model) if tensors is None else check_tensors(model, tensors)
    fingerprints = graph_fingerprint(model), chosen.fingerprint(size_hw)
    statistics = gather(
        model, chosen.paths, names, size_hw=size_hw, settings=settings, threads=threads, progress=progress
    )
    ranges = {name: all_ranges(of_tensor, settings) for name, of_tensor in statistics.items()}
    return CalibrationTable(*fingerprints, images=len(chosen), ranges=ranges, settings=settings)


def calibrate_or_reuse(
    path: Path,
    model: onnx.ModelProto,
    images: CalibrationImages,
    *,
    size_hw: tuple[int, int],
    tensors: Collection[str] | None = None,
    settings: CalibrationSettings = DEFAULT_SETTINGS,
    threads: int | None = None,
    progress: bool = True,
) -> CalibrationTable:
    """The table in the file `path` if there is one and it fits, else a new one, which is saved there.

    Raises:
        ModelFileError: the file is no table, is of another model, other images or other settings, or lacks one of the
            tensors; and as `calibrate`.
        DatasetError: as `calibrate`.
        SinkError: `path` cannot be written.
    """
    if not path.exists():
        table = calibrate(
            model, images, size_hw=size_hw, tensors=tensors, settings=settings, threads=threads, progress=progress
        )
        table.save(path)
        return table
    table = CalibrationTable.load(path)
    try:
        table.check(graph_fingerprint(model), images.fingerprint(size_hw), settings)
        for name in activation_tensors(model) if tensors is None else check_tensors(model, tensors):
            table.range_of(name, "minmax")
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    logger.info("reusing the calibration table %s (%d images)", path, table.images)
    return table


def gather(
    model: onnx.ModelProto,
    paths: Sequence[Path],
    tensors: Sequence[str],
    *,
    size_hw: tuple[int, int],
    settings: CalibrationSettings = DEFAULT_SETTINGS,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, TensorStatistics]:
    """The statistics of each tensor over the images.

    Raises:
        DatasetError, ModelFileError: as `calibrate`.
    """
    statistics = {name: TensorStatistics(bins=settings.bins, momentum=settings.momentum) for name in tensors}
    runner = ActivationRunner(model, tensors, size_hw, threads=threads)
    bar = tqdm(paths, desc="calibrating", unit="image", leave=False, disable=None if progress else True)
    for path in bar:
        image_rgb = preprocess(load_image(path), size_hw)
        try:
            for name, values in runner.run(image_rgb):
                statistics[name].update(values)
        except FloatingPointError as error:
            raise ModelFileError(_non_finite_message(model, image_rgb, path, threads)) from error
    return statistics


def graph_fingerprint(model: onnx.ModelProto) -> str:
    """SHA-256 (lower-case hex) of a graph's operators, connections and weights.

    Independent of metadata, card, documentation, names of nodes, declared shapes, and of how weights are stored.
    """
    digest = hashlib.sha256()
    versions = sorted((opset.domain, opset.version) for opset in model.opset_import)
    ends = [[tensor.name for tensor in side] for side in (model.graph.input, model.graph.output)]
    digest.update(json.dumps([versions, ends]).encode())
    for node in model.graph.node:
        attributes = {attribute.name: _attribute_digest(attribute) for attribute in node.attribute}
        parts = [node.domain, node.op_type, list(node.input), list(node.output), attributes]
        digest.update(json.dumps(parts, sort_keys=True).encode())
    for tensor in sorted(model.graph.initializer, key=lambda tensor: str(tensor.name)):
        digest.update(json.dumps([tensor.name, tensor.data_type, list(tensor.dims)]).encode())
        digest.update(_tensor_bytes(tensor))
    return digest.hexdigest()


def ranges_warning(
    table: CalibrationTable,
    model: onnx.ModelProto,
    images: Sequence[Path],
    *,
    size_hw: tuple[int, int],
    threads: int | None = None,
    progress: bool = True,
) -> str | None:
    """What to tell the user when the calibration images seem to be of another domain than `images`; None if not.

    Compares each tensor's moving average of the calibration with that over `DOMAIN_IMAGES` of `images`, spread evenly:
    the range of the usual image, which does not grow with the number of images as the full range does.

    Raises:
        DatasetError: an image that cannot be read, or none.
        ModelFileError: as `calibrate`.
    """
    if not images:
        raise DatasetError("no validation images to compare the calibration with; give some")
    names = check_tensors(model, table.ranges)
    paths = spread_evenly(images, DOMAIN_IMAGES)
    statistics = gather(
        model, paths, names, size_hw=size_hw, settings=table.settings, threads=threads, progress=progress
    )
    ratios = {name: _ratio(statistics[name], table, name) for name in names}
    far = {name: ratio for name, ratio in ratios.items() if not 1 / FAR <= ratio <= FAR}
    if not far or len(far) < FAR_TENSORS * (1 + 3 / len(paths)) * len(ratios):
        return None
    larger = sum(ratio > FAR for ratio in far.values())
    first, worst = next(iter(far)), max(far, key=lambda name: abs(math.log(max(far[name], 1e-9))))
    return (
        f"the calibration images seem to be of another domain than the {len(paths)} validation images compared: of "
        f"{len(ratios)} tensors, {larger} usually reach more than {FAR} times as far there and are clipped, and "
        f"{len(far) - larger} less than 1/{FAR} and lose precision; the first is {first!r} ({far[first]:.2f} times), "
        f"the worst {worst!r} ({far[worst]:.2f} times); calibrate on images such as the model will see"
    )


def _ratio(statistics: TensorStatistics, table: CalibrationTable, tensor: str) -> float:
    """How many times as far as in the calibration a tensor usually reaches from zero."""
    low, high = range_by("moving_average", statistics, table.settings)
    calibrated_low, calibrated_high = table.range_of(tensor, "moving_average")
    return max(-low, high) / max(-calibrated_low, calibrated_high)


def _non_finite_message(model: onnx.ModelProto, image_rgb: NDArray[np.uint8], path: Path, threads: int | None) -> str:
    layer = first_non_finite(model, image_rgb, threads=threads)
    return (
        f"the model cannot be calibrated: for image {path} {layer or 'an activation is not finite'}; "
        "a checkpoint that diverged in training does this: train again with a lower learning rate, or take an "
        "earlier checkpoint"
    )


def _attribute_digest(attribute: onnx.AttributeProto) -> str:
    plain = onnx.AttributeProto()
    plain.CopyFrom(attribute)
    plain.doc_string = ""
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).hexdigest()


def _tensor_bytes(tensor: onnx.TensorProto) -> bytes:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelFileError(
            f"the weight {tensor.name} lies in another file; expected one file with all weights: export the "
            "checkpoint with ssd-edge export"
        )
    return bytes(numpy_helper.to_array(tensor).tobytes())
