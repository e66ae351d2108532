"""What another project's file computes, run as it is: the reference of what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ssd_edge.errors import ModelFileError, reason
from ssd_edge.export.adopt.foreign import ForeignInput
from ssd_edge.export.adopt.said import Preparation
from ssd_edge.runtime.backends.ort_session import open_session

NUMPY_TYPES = {"float": np.float32, "float16": np.float16, "uint8": np.uint8}


def probe_images(height: int, width: int) -> NDArray[np.uint8]:
    """Three images, uint8 [3, height, width, 3] RGB: coarse noise, fine noise on a gradient, and patches of colour."""
    rng = np.random.default_rng(0)
    images = []
    for cell in (8, 1, 40):
        rows, columns = height // cell + 1, width // cell + 1
        noise = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        images.append(noise.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width])
    gradient = np.linspace(0, 255, width)[None, :, None]
    images[1] = (0.7 * gradient + 0.3 * images[1]).astype(np.uint8)
    return np.stack(images)


class Original:
    """A foreign file in ONNX Runtime, with the preparation of images that its project has.

    Raises:
        ModelFileError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, taken: ForeignInput, preparation: Preparation) -> None:
        self._path, self._taken, self._preparation = path, taken, preparation
        try:
            self._session = open_session(path)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ModelFileError(f"{path}: ONNX Runtime {ort.__version__} cannot load it: {reason(error)}") from error

    def run(self, images_rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Float outputs by name, [images, …] each, for uint8 [images, height, width, 3].

        Raises:
            ModelFileError: ONNX Runtime cannot run it, or its outputs have no batch.
        """
        names = [output.name for output in self._session.get_outputs() if output.type.startswith("tensor(float")]
        batch = self._taken.batch or 1
        found: list[list[NDArray[np.float32]]] = []
        for image in images_rgb:
            prepared = np.repeat(self._prepared(image)[None], batch, axis=0)
            try:
                values = self._session.run(names, {self._taken.name: prepared}) if names else []
            except Exception as error:  # ONNX Runtime's errors share no base but Exception
                raise ModelFileError(f"{self._path} does not run: {reason(error)}; export it again") from error
            found.append([value[:1].astype(np.float32) for value in values if value.shape[:1] == (batch,)])
            names = [name for name, value in zip(names, values, strict=True) if value.shape[:1] == (batch,)]
        return {name: np.concatenate(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}

    def _prepared(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.generic]:
        """As the network takes it, without the batch."""
        kind = NUMPY_TYPES[self._taken.element_type]
        mean, std = (np.array(part, np.float32) for part in self._preparation.normalisation)
        image = (image_rgb - mean) / std
        if self._preparation.bgr:
            image = image[..., ::-1]
        if self._taken.planes_first:
            image = image.transpose(2, 0, 1)
        prepared: NDArray[np.generic] = np.ascontiguousarray(image).astype(kind)
        return prepared
