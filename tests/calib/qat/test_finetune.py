"""Fine-tuning under fake quantisation gives an ordinary, better checkpoint, or nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssd_edge.calib.qat.fake_quant import FakeQuantization
from ssd_edge.calib.qat.finetune import FinetuneSettings, quantization_aware_finetune, scores_of, with_classes_of
from ssd_edge.calib.qat.schemes import SCHEMES, Scheme
from ssd_edge.card import file_sha256
from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.samples import ImageSamples, collate
from ssd_edge.errors import DatasetError, ModelFileError, SinkError, SsdEdgeError, UsageError
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.ssd import SSD
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.initial_model import ModelSettings
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.run import train_on
from ssd_edge.training.splits import DataSettings
from tests.calib.qat.residual_arch import ARCH
from tests.ssd_edge.training.interrupts import interrupt_at


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Grey images with one lighter square each, of two sizes: two classes."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    records = []
    for number in range(16):
        side, label = ((24, 0), (40, 1))[number % 2]
        x, y = (int(v) for v in random.integers(0, 64 - side, 2))
        image = np.full((64, 64, 3), 60, np.uint8)
        image[y : y + side, x : x + side] = 200
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image)
        box = np.array([[x, y, x + side, y + side]], np.float32)
        area = np.array([side * side], np.float32)
        records.append(ImageRecord(path, number, (64, 64), box, np.array([label]), area, np.zeros(1, bool)))
    return DetectionDataset("squares", ("small", "large"), (3, 7), tuple(records))


@pytest.fixture(scope="module")
def trained(squares: DetectionDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learnt the squares."""
    run = RunSettings(tmp_path_factory.mktemp("run"), eval_every=30, workers=0, threads=1, device="cpu")
    optimisation = Optimisation(epochs=30, batch=4, augment=False, amp=False)
    config = TrainConfig(DataSettings("squares"), run, ModelSettings(ARCH, default_boxes="own"), optimisation)
    return train_on(squares, squares, config)


def finetune(
    trained: Path,
    output: Path,
    data: DetectionDataset,
    *,
    val: DetectionDataset | None = None,
    target: str = "tensorrt",
    ranges: Mapping[str, tuple[float, float]] | None = None,
    float_layers: Collection[str] = (),
    **changes: Any,
) -> Path:
    fast = FinetuneSettings(epochs=1, batch=4, workers=0, threads=1, device="cpu", progress=False)
    return quantization_aware_finetune(
        trained,
        output,
        replace(fast, **changes),
        data=data,
        val=val,
        target=target,
        ranges=ranges,
        float_layers=float_layers,
    )


def loss_under(scheme: Scheme, model: SSD, data: DetectionDataset) -> float:
    """The loss on all images under fake quantisation with ranges of these images."""
    samples = ImageSamples(data, EvalTransform((64, 64)), seed=0)
    batch = collate([samples[0, i] for i in range(len(data))])
    assert not isinstance(batch, DatasetError)
    images, boxes, labels = batch
    quantization = FakeQuantization(model.eval(), scheme)
    quantization.calibrate([images.float()])
    with torch.no_grad():
        raw = model(images.float())
    quantization.remove()
    targets = Targets.pad(boxes, labels)
    return multibox_loss(raw.cls_logits, raw.bbox_regression, model.default_boxes_xyxy, targets).total.item()


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_the_loss_under_quantisation_falls(
    trained: Path, squares: DetectionDataset, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At four bits, where rounding hurts; and it falls more than by the same training at eight."""
    monkeypatch.setattr("ssd_edge.calib.qat.finetune.transform_of", lambda *_: EvalTransform((64, 64)))
    scheme = replace(SCHEMES[target], bits=4)
    before = loss_under(scheme, model_from_checkpoint(trained)[0], squares)
    assert before > 1.2 * loss_under(SCHEMES[target], model_from_checkpoint(trained)[0], squares)
    after = {}
    for bits in (4, 8):
        losses = []
        for seed in range(4):  # one alone varies with the order of images, and of additions from processor to processor
            output = tmp_path / f"{bits}_{seed}.pt"
            tuned = finetune(trained, output, squares, epochs=6, bits=bits, target=target, lr=3e-4, seed=seed)
            losses.append(loss_under(scheme, model_from_checkpoint(tuned)[0], squares))
        after[bits] = np.mean(losses)
    assert after[4] < 0.85 * before
    assert after[4] < 0.92 * after[8]


def test_the_result_is_an_ordinary_checkpoint(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = finetune(trained, tmp_path / "new" / "qat.pt", squares, val=squares, epochs=2)
    before, after = load_checkpoint(trained), load_checkpoint(output)
    assert after.state_dict.keys() == before.state_dict.keys()
    names = [f"{prefix}_{name}" for prefix in ("val", "val_int8") for name in ("AP", "AP50", "AP75")]
    assert sorted(after.card.metrics) == sorted(names)
    assert after.card.parent_sha256 == file_sha256(trained)
    assert after.card == replace(
        before.card,
        parent_sha256=after.card.parent_sha256,
        metrics=after.card.metrics,
        training_data=squares.fingerprint(),
    )
    model, card = model_from_checkpoint(output)
    assert scores_of(model, card, squares, progress=False)["AP"] == card.metrics["val_AP"]
    moved = {name for name, value in before.state_dict.items() if not torch.equal(value, after.state_dict[name])}
    assert "backbone.layers.2.bn3.bias" in moved
    assert "backbone.layers.0.0.weight" in moved
    frozen = ("bn3.weight", "running_mean", "running_var", "num_batches_tracked")
    assert not [name for name in moved if name.endswith(frozen)]
    assert os.listdir(output.parent) == ["qat.pt"]


def test_safetensors_and_no_evaluation(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = finetune(trained, tmp_path / "qat.safetensors", squares)
    assert load_checkpoint(output).card.metrics == {}


def test_same_seed_same_weights(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    states = [load_checkpoint(finetune(trained, tmp_path / f"{i}.pt", squares)).state_dict for i in range(2)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_the_best_epoch_is_kept(
    trained: Path,
    squares: DetectionDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # before training, after each of three epochs, and of the float weights at the end
    scores = iter([0.9, 0.3, 0.5, 0.4, 0.6])
    monkeypatch.setattr(
        "ssd_edge.calib.qat.finetune.scores_of", lambda *_: dict.fromkeys(("AP", "AP50", "AP75"), next(scores))
    )
    metrics = load_checkpoint(finetune(trained, tmp_path / "qat.pt", squares, val=squares, epochs=3)).card.metrics
    assert (metrics["val_int8_AP"], metrics["val_AP"]) == (0.5, 0.6)
    assert "did not help: AP under fake quantisation was 0.9000 before and is 0.5000 at best" in caplog.text


def test_labels_follow_the_order_of_the_card(trained: Path, squares: DetectionDataset) -> None:
    card = load_checkpoint(trained).card
    swapped = replace(
        squares,
        class_names=("large", "small"),
        category_ids=(7, 3),
        records=tuple(replace(record, labels=1 - record.labels) for record in squares.records),
    )
    back = with_classes_of(card, swapped)
    assert (back.class_names, back.category_ids) == (("small", "large"), (3, 7))
    assert [record.labels.tolist() for record in back.records] == [record.labels.tolist() for record in squares.records]


def nothing_is_left(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "openvino"}, "unknown target 'openvino'; there are tensorrt, cpu"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"lr": -1.0}, "lr is -1.0; expected a positive number"),
        ({"bits": 1}, "1 bits; expected 2 to 8"),
        ({"ranges": {"relu": (0.0, 1.0)}}, "no convolution relu"),
        ({"float_layers": ["head"]}, "no convolution head"),
        ({"device": "npu"}, "--device npu"),
    ],
)
def test_wrong_usage(
    trained: Path, squares: DetectionDataset, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(trained, tmp_path / "qat.pt", squares, **changes)
    assert nothing_is_left(tmp_path)


def test_wrong_outputs(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in neither \.pt nor \.safetensors"):
        finetune(trained, tmp_path / "qat.onnx", squares)
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        finetune(trained, trained, squares)
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        finetune(trained, tmp_path / "file" / "qat.pt", squares)
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        finetune(tmp_path / "absent.pt", tmp_path / "qat.pt", squares)


def test_data_that_does_not_fit(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = tmp_path / "qat.pt"
    other = replace(squares, class_names=("small", "round"))
    with pytest.raises(DatasetError, match="squares has the classes small, round, the checkpoint small, large"):
        finetune(trained, output, other)
    without = replace(squares, records=tuple(record.select(np.zeros(1, bool)) for record in squares.records))
    with pytest.raises(DatasetError, match="none of 16 images has a box to learn from"):
        finetune(trained, output, without)
    with pytest.raises(DatasetError, match="none of 0 images"):
        finetune(trained, output, replace(squares, records=()))
    with pytest.raises(DatasetError, match="there is nothing to score against"):
        finetune(trained, output, squares, val=without)
    gone = replace(squares.records[3], path=tmp_path / "gone.png")
    with pytest.raises(DatasetError, match=r"gone\.png"):
        finetune(trained, output, replace(squares, records=(*squares.records, gone)))
    assert nothing_is_left(tmp_path)


def test_a_loss_that_is_not_finite_writes_nothing(
    trained: Path, squares: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(SsdEdgeError, match=r"gradient's norm nan, on the batch of \d+\.png, .*nothing is written"):
        finetune(trained, tmp_path / "qat.pt", squares)
    assert nothing_is_left(tmp_path)


def test_a_checkpoint_that_diverged_is_named(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained)
    checkpoint.state_dict["backbone.layers.0.0.weight"].fill_(torch.nan)
    (tmp_path / "in").mkdir()
    save_checkpoint(tmp_path / "in" / "nan.pt", Checkpoint(checkpoint.card, checkpoint.state_dict))
    with pytest.raises(SsdEdgeError, match=r"the input of backbone\.layers\.1\.block\.0\.0 is not finite"):
        finetune(tmp_path / "in" / "nan.pt", tmp_path / "out" / "qat.pt", squares)
    assert nothing_is_left(tmp_path / "out")


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (2, 1), (4, 0)])
def test_interrupted_it_writes_nothing(
    trained: Path, squares: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, workers: int
) -> None:
    """In the first step, in the middle, and in the very last step."""
    interrupt_at(step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finetune(trained, tmp_path / "qat.pt", squares, workers=workers)
    assert nothing_is_left(tmp_path)
