"""What `measure.py` measures and compares with; all of it is made without a GPU, so that dry runs make it too."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.cases import SCORES_ABOVE, NmsCase, background_dropped, ssd300_boxes, ssd300_logits
from benchmarks.gpu.models import (
    SSD300,
    SSDLITE,
    Image,
    Model,
    bundled,
    need_onnxruntime_cuda,
    onnxruntime_cuda_peer,
    read_frame,
    write_onnx,
)
from benchmarks.gpu.record import NotRunError, Row, need
from ssd_edge.choices import PRECISIONS
from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.packages import is_installed
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.preprocess import preprocess


@dataclass(kw_only=True)
class Inputs:
    """What is measured; all of it can be made without a GPU.

    Attributes:
        models: by architecture.
        absent: architectures that cannot be measured here, and why.
        pairs: model, dataset and split to compare mAP on.
        onnx: further files to build and run.
    """

    folder: Path
    runs: int
    quick: bool
    frame: Image
    models: dict[str, Model]
    absent: dict[str, str]
    pairs: list[tuple[str, str, str]]
    onnx: list[Path]

    def each_model(self, rows: list[Row]) -> Iterator[tuple[str, Model]]:
        """Architectures and their models; a row says why one is absent."""
        rows.extend({"model": arch, "not_run": why} for arch, why in self.absent.items())
        yield from self.models.items()


def make_inputs(args: argparse.Namespace, folder: Path) -> Inputs:
    """Models and images, as the command line has them.

    Args:
        folder: for the files that are written.

    Raises:
        UsageError: a file that was given is not there.
    """
    frame = read_frame(args.frame)
    models = {SSDLITE: bundled() if args.ssdlite is None else given_model(SSDLITE, args.ssdlite)}
    absent = {}
    try:
        models[SSD300] = random_ssd300(folder, frame) if args.ssd300 is None else given_model(SSD300, args.ssd300)
    except NotRunError as error:
        absent[SSD300] = str(error)
    return Inputs(
        folder=folder,
        runs=10 if args.quick else args.runs,
        quick=args.quick,
        frame=frame,
        models=models,
        absent=absent,
        pairs=[tuple(pair) for pair in args.map],
        onnx=args.onnx,
    )


def given_model(arch: str, path: Path) -> Model:
    """
    Raises:
        UsageError: the file is not there.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give a checkpoint (.pt) or an ONNX file")
    onnx = path.suffix == ".onnx"
    return Model(arch, None if onnx else path, path if onnx else None, "given")


def random_ssd300(folder: Path, frame: Image) -> Model:
    """
    Raises:
        NotRunError: no PyTorch.
    """
    import_peers()
    from benchmarks.gpu.torch_peers import untrained_checkpoint

    rgb = np.ascontiguousarray(frame[..., ::-1])
    return Model(SSD300, untrained_checkpoint(SSD300, folder / f"{SSD300}.pt", rgb), None, "random")


def model_of_pair(name: str) -> Model:
    """The model that `--map` names."""
    return bundled() if name == "bundled" else given_model("of --map", Path(name))


def onnx_files(inputs: Inputs, rows: list[Row]) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    """Name, precision, and what makes the ONNX file where it is not there yet."""
    for path in inputs.onnx:
        yield path.stem, "given", partial(Path, path)
    for arch, model in inputs.each_model(rows):
        for precision in PRECISIONS:
            yield arch, precision, partial(write_onnx, model, precision, inputs.folder)


def cases_to_suppress(inputs: Inputs) -> dict[str, Callable[[], NmsCase]]:
    """Outputs of networks for 4 images each, by the network's name."""
    model = inputs.models[SSDLITE]
    return {
        f"the {model.weights} {SSDLITE}": partial(_outputs_of, inputs, model),
        "SSD300's size": lambda: NmsCase("SSD300's size", ssd300_boxes(4), ssd300_scores(inputs, 4)[1]),
    }


def _outputs_of(inputs: Inputs, model: Model) -> NmsCase:
    with open_detector(model.file) as detector:
        card = detector.card
        image = preprocess(inputs.frame, (card.height, card.width))
        images = np.stack([np.roll(image, 40 * shift, axis=1) for shift in range(4)])
        return NmsCase(model.arch, *detector.infer(images), 0.001, card.nms_iou)


def expected_detections(inputs: Inputs, file: Path) -> Detections:
    """The CPU's, of the frame."""
    with open_detector(file) as reference:
        return reference([inputs.frame])[0]


def ssd300_scores(inputs: Inputs, batch: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Logits [batch, 8732, classes + 1] with the background first, scores without it, and where they are from."""
    model = inputs.models.get(SSD300)
    if model is not None and model.weights == "given" and model.checkpoint is not None and is_installed("torch"):
        from benchmarks.gpu import torch_peers

        image = preprocess(inputs.frame, (300, 300))
        images = np.stack([np.roll(image, 20 * shift, axis=1) for shift in range(batch)])
        logits = torch_peers.ssd300_logits(model.checkpoint, images)
        source = "the checkpoint's, of shifted copies of one image"
    else:
        logits = ssd300_logits(batch)
        source = f"softmax of seeded Student's t logits, about {SCORES_ABOVE} scores per image above the threshold"
    return logits, background_dropped(logits), source


def ssd300_checkpoint(inputs: Inputs) -> Path:
    """
    Raises:
        NotRunError: there is none.
    """
    model = inputs.models.get(SSD300)
    if model is None or model.checkpoint is None:
        raise NotRunError(inputs.absent.get(SSD300, "SSD300 was given as ONNX; torchvision needs a checkpoint"))
    return model.checkpoint


def import_peers() -> None:
    """
    Raises:
        NotRunError: a package of torchvision's detectors is missing.
    """
    need("torch", "torchvision", "safetensors")


def peers_of(inputs: Inputs, model: Model, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    """Others that detect with the same weights."""

    def torchvision(compiled: bool) -> Any:
        import_peers()
        from benchmarks.gpu.torch_peers import torchvision_peer

        if model.checkpoint is None:
            raise NotRunError(f"{model.file.name} is no checkpoint, which torchvision needs")
        return torchvision_peer(model.checkpoint, inputs.frame, compiled=compiled)

    def onnxruntime() -> Any:
        need_onnxruntime_cuda()  # before a file is exported for it
        return onnxruntime_cuda_peer(write_onnx(model, "fp32", inputs.folder), inputs.frame)

    peers: dict[str, Callable[[], Any]] = {"torchvision eager": partial(torchvision, False)}
    if compiled:
        return {**peers, "torchvision torch.compile": partial(torchvision, True)}
    return {**peers, "ONNX Runtime CUDA": onnxruntime}
