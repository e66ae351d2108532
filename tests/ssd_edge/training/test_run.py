"""A training learns, stops, resumes bit-equal, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.data.augment import Sample
from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.readers import read_dataset
from ssd_edge.data.samples import EpochBatches, ImageSamples, Key
from ssd_edge.errors import DatasetError, ModelFileError, SinkError, SsdEdgeError, UsageError
from ssd_edge.models.architecture import ARCHITECTURES, PublishedWeights
from ssd_edge.models.create import create_model
from ssd_edge.models.loss import Targets
from ssd_edge.training.boxes import compare_boxes
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group
from ssd_edge.training.recipes import recipe_for
from ssd_edge.training.run import choose_recipe, train, train_on
from ssd_edge.training.splits import hold_out, read_data, shared_images
from ssd_edge.training.trainer import Run
from tests.detectors.tiny_arch import WITH_NORM, WITHOUT_NORM, write_yolo

TINY_ARCH = str(Path(__file__).parents[2] / "detectors" / "tiny_arch.py")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = write_yolo(tmp_path / "data", 6)
    return TrainConfig(
        str(data), tmp_path / "run", WITH_NORM, epochs=2, batch=2, workers=0, threads=1, device="cpu", amp=False
    )


def test_training_writes_checkpoints_and_history(config: TrainConfig) -> None:
    best = train(config)
    checkpoint = load_checkpoint(best)
    assert checkpoint.card.class_names == ("square",)
    assert checkpoint.card.metrics.keys() == {"val_AP", "val_AP50", "val_AP75"}
    assert checkpoint.card.training_data
    last = load_checkpoint(config.output / "last.pt")
    assert last.training["step"] == 4  # 5 images (one is held out) in batches of 2, twice
    history = [json.loads(line) for line in (config.output / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in history)


def test_the_loss_falls(config: TrainConfig) -> None:
    train(replace(config, epochs=60, eval_every=60))
    losses = [json.loads(line)["loss"] for line in (config.output / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_interrupted_and_resumed_equals_never_stopped(config: TrainConfig, tmp_path: Path) -> None:
    """Real signals in the middle, to the whole process group, as a terminal and a supervisor send them."""

    def start(output: Path, *more: str) -> subprocess.Popen[str]:
        options = f"--arch {WITH_NORM} --epochs 40 --batch 2 --eval-every 1000 --workers 1 --threads 1 --device cpu"
        command = [sys.executable, TINY_ARCH, "train", config.data, "-o", str(output), *options.split(), *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    whole = start(tmp_path / "whole")
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors

    last, steps = tmp_path / "stopped" / "last.pt", [0]
    for number in (signal.SIGINT, signal.SIGTERM):
        before = last.stat().st_mtime_ns if last.exists() else None
        stopped = start(last.parent, *(["--resume"] if last.exists() else []))
        while not last.exists() or last.stat().st_mtime_ns == before:  # until it has finished an epoch
            assert stopped.poll() is None
            time.sleep(0.01)
        os.killpg(stopped.pid, number)
        _, errors = stopped.communicate(timeout=120)
        assert stopped.returncode == 130, errors
        assert "go on with --resume" in errors
        assert "Traceback" not in errors
        steps.append(load_checkpoint(last).training["step"])
    assert 0 < steps[1] < steps[2] < 80, steps

    resumed = start(tmp_path / "stopped", "--resume")
    assert resumed.wait(timeout=120) == 0
    ours = load_checkpoint(tmp_path / "stopped" / "last.pt")
    theirs = load_checkpoint(tmp_path / "whole" / "last.pt")
    assert ours.training["step"] == theirs.training["step"] == 80
    assert all(torch.equal(ours.state_dict[name], value) for name, value in theirs.state_dict.items())
    weights = theirs.training["weights"]  # those of the last step, beside their average
    assert weights.keys() == theirs.state_dict.keys()
    assert all(torch.equal(ours.training["weights"][name], value) for name, value in weights.items())


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the step of that number (from 1) is under way."""
    original = Run._train_step

    def step_and_signal(run: Run, *arguments: object) -> tuple[float, float]:
        if run.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_train_step", step_and_signal)


def epochs_in_history(config: TrainConfig) -> list[int]:
    return [json.loads(line)["epoch"] for line in (config.output / "history.jsonl").read_text().splitlines()]


def test_ctrl_c_in_the_last_step_of_an_epoch_keeps_its_evaluation(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert (config.output / "best.pt").exists()
    assert load_checkpoint(config.output / "last.pt").training["step"] == 2
    train(replace(config, resume=True))
    assert epochs_in_history(config) == [1, 2]


def test_ctrl_c_in_the_very_last_step_changes_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(4, monkeypatch)
    assert train(config).exists()
    assert load_checkpoint(config.output / "last.pt").training["step"] == 4
    assert epochs_in_history(config) == [1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_away_is_named_and_the_steps_are_kept(config: TrainConfig, workers: int) -> None:
    train_set, val_set = read_data(config)
    assert train_set is not None
    gone = train_set.records[0].path
    gone.unlink()
    with pytest.raises(DatasetError) as error:
        train_on(train_set, val_set, replace(config, workers=workers))
    assert str(gone) in str(error.value)
    assert "Traceback" not in str(error.value)
    assert (config.output / "last.pt").exists()


def test_resume_refuses_other_settings(config: TrainConfig) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        train(replace(config, resume=True))
    train(replace(config, epochs=1))
    with pytest.raises(UsageError, match="is there already: go on with --resume"):
        train(config)
    with pytest.raises(UsageError, match=r"epochs 1 -> 2; batch 2 -> 3"):
        train(replace(config, epochs=2, batch=3, resume=True))
    (config.output / "best.pt").rename(config.output / "last.pt")
    with pytest.raises(ModelFileError, match="holds no training state"):
        train(replace(config, epochs=1, resume=True))


def test_a_checkpoint_to_start_from(config: TrainConfig, tmp_path: Path) -> None:
    """Fine-tuning with other classes: only the class heads start anew."""
    torch.manual_seed(5)
    start = create_model(config.arch, 3)
    card = start.make_card(("a", "b", "c"), (1, 2, 3))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(card, start.state_dict()))
    tiny = replace(config, epochs=1, lr=1e-9, weight_decay=0.0, weights=str(tmp_path / "start.pt"))
    tuned = load_checkpoint(train(tiny)).state_dict
    for name, parameter in start.named_parameters():
        if name.startswith("head.classification_head"):
            continue
        torch.testing.assert_close(tuned[name], parameter.detach(), atol=1e-6, rtol=0)
    with pytest.raises(ModelFileError, match="another architecture"):
        train(replace(tiny, arch=WITHOUT_NORM, output=tmp_path / "other"))


def test_resume_refuses_changed_data(config: TrainConfig) -> None:
    train(replace(config, epochs=1))
    (Path(config.data) / "classes.txt").write_text("square\ncircle\n")
    with pytest.raises(UsageError, match="are not those of the run to resume"):
        train(replace(config, epochs=1, resume=True))


def test_a_moved_dataset_can_be_resumed(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, epochs=1))
    moved = Path(config.data).rename(tmp_path / "moved")
    assert train(replace(config, data=str(moved), epochs=1, resume=True)).name == "best.pt"


def test_splits_are_chosen_and_may_be_named(shared_data: Path, tmp_path: Path) -> None:
    config = TrainConfig(str(shared_data / "bccd"), tmp_path)
    assert sizes(config) == (205, 87)
    assert sizes(replace(config, split="train+val", val_split="test")) == (292, 72)
    # val is part of what is trained on, and test is never taken unasked: it would choose best.pt
    assert sizes(replace(config, split="train+val")) == (263, 29)


SPLIT = {"train": (0, 1, 2, 3), "val": (3, 4, 5)}


def sizes(config: TrainConfig) -> tuple[int, int]:
    train_set, val_set = read_data(config)
    assert train_set is not None
    assert train_set.class_names == val_set.class_names
    return len(train_set), len(val_set)


def test_the_usual_coco_folder_names(tmp_path: Path) -> None:
    for split, first in (("train2017", 0), ("val2017", 100)):
        write_coco(tmp_path / "data" / split, count=3 if first else 4, seed=0, first_index=first, size_hw=(64, 64))
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        written = json.loads((tmp_path / "data" / split / "annotations.json").read_text())
        for image in written["images"]:
            image["file_name"] = f"../{split}/images/{image['file_name']}"
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(written))
        (tmp_path / "data" / split / "annotations.json").unlink()
    assert sizes(TrainConfig(str(tmp_path / "data"), tmp_path / "run")) == (4, 3)


def test_evaluation_images_that_are_trained_on_are_warned_of(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"path: {config.data}\ntrain: images\nval: images\nnames: [square]\n")
    assert sizes(replace(config, data=str(yaml), split="train", val_split="val")) == (6, 6)
    assert "warning: 6 of the 6 evaluation images are trained on too" in capsys.readouterr().err
    for name in ("train", "val"):  # an image in both is no reason to do without the split
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{config.data}/images/{i}.png" for i in SPLIT[name]))
    lists = tmp_path / "lists.yaml"
    lists.write_text(f"path: {tmp_path}\ntrain: train.txt\nval: val.txt\nnames: [square]\n")
    assert sizes(replace(config, data=str(lists))) == (4, 3)
    assert "warning: 1 of the 3 evaluation images are trained on too" in capsys.readouterr().err
    assert sizes(replace(config, data=str(yaml))) == (5, 1)  # not asked for, so not done


def test_a_copy_under_another_name_is_in_two_splits_too(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_yolo(tmp_path / "other", 8)  # the first six are those of `config`
    (other / "images" / "7.png").rename(other / "images" / "6.png")
    copies = shared_images(read_dataset(Path(config.data)), read_dataset(other))
    assert copies == 6
    (tmp_path / "train.txt").write_text("\n".join(f"{config.data}/images/{i}.png" for i in range(6)))
    (tmp_path / "val.txt").write_text("\n".join(f"{other}/images/{i}.png" for i in (5, 6)))
    lists = tmp_path / "lists.yaml"
    lists.write_text(f"path: {tmp_path}\ntrain: train.txt\nval: val.txt\nnames: [square]\n")
    assert sizes(replace(config, data=str(lists))) == (6, 2)
    assert "warning: 1 of the 2 evaluation images are trained on too" in capsys.readouterr().err


def test_a_tenth_of_the_labelled_images_is_held_out(config: TrainConfig, tmp_path: Path) -> None:
    dataset = read_dataset(write_yolo(tmp_path / "twenty", 20))
    labelled = dataset.records[5:]
    backgrounds = tuple(record.select(np.zeros(1, bool)) for record in dataset.records[:5])
    dataset = replace(dataset, records=backgrounds + labelled)
    train_set, val_set = hold_out(dataset, seed=0)
    assert (len(train_set), len(val_set)) == (18, 2)
    assert all(len(record.labels) for record in val_set.records)
    assert len({record.path for record in train_set.records + val_set.records}) == 20
    one = replace(dataset, records=labelled[:1])
    assert [len(part) for part in hold_out(one, seed=0)] == [1, 1]
    with pytest.raises(DatasetError, match="none of 5 images has a box"):
        hold_out(replace(dataset, records=backgrounds), seed=0)


def test_the_held_out_images_can_be_evaluated_later(config: TrainConfig) -> None:
    _, val_set = read_data(config)
    listed = read_dataset(config.output / "held_out.json")
    assert [record.path for record in listed.records] == [record.path.absolute() for record in val_set.records]
    np.testing.assert_allclose(listed.records[0].boxes_xyxy, val_set.records[0].boxes_xyxy)


@pytest.mark.parametrize("images", [1, 2])
def test_the_smallest_datasets_train(config: TrainConfig, tmp_path: Path, images: int) -> None:
    data = write_yolo(tmp_path / "tiny", images)
    assert train(replace(config, data=str(data), epochs=1)).exists()


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 20, 21])
def test_the_schedule_has_any_length(config: TrainConfig, epochs: int) -> None:
    """torch's one-cycle schedule divides by zero where its first phase is exactly one step."""
    train_set, val_set = read_data(config)
    model = create_model(config.arch, 1)
    config = replace(config, epochs=epochs, batch=5)
    alone = Group(0, 1, torch.device("cpu"))
    run = Run(config, choose_recipe(config, 5), alone, model, train_set, val_set)
    rates = []
    for _ in range(epochs):
        rates.append(run.schedule.get_last_lr()[0])
        run.optimizer.step()
        if len(rates) < epochs:
            run.schedule.step()
    assert all(np.isfinite(rates))
    assert max(rates) <= 2e-3 * 5 / 8  # the preset's, in proportion to the batch


def test_an_unwritable_output_shows_before_training(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        train(replace(config, output=tmp_path / "file" / "run"))


def test_what_cannot_be_scored_shows_before_training(config: TrainConfig, tmp_path: Path) -> None:
    dataset = read_dataset(Path(config.data))
    empty = replace(dataset, records=tuple(record.select(np.zeros(1, bool)) for record in dataset.records))
    with pytest.raises(DatasetError, match="no boxes of square"):
        train_on(dataset, empty, config)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        train(TrainConfig(str(tmp_path / "absent"), tmp_path / "run"))
    with pytest.raises(UsageError, match="batch norm"):
        train_on(
            *[read_dataset(write_yolo(tmp_path / "data", 2))] * 2, TrainConfig("", tmp_path / "run", WITH_NORM, batch=1)
        )
    with pytest.raises(UsageError, match="epochs is 0"):
        TrainConfig("codes", tmp_path, epochs=0)
    with pytest.raises(UsageError, match="lr is -1"):
        TrainConfig("codes", tmp_path, lr=-1.0)


def test_codes_need_no_dataset(tmp_path: Path) -> None:
    write_coco(tmp_path / "val", count=2, seed=99)  # the run would write 200 of them
    best = train(TrainConfig("codes", tmp_path, WITH_NORM, epochs=1, batch=2, scenes=2, workers=0, device="cpu"))
    assert load_checkpoint(best).card.class_names == ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")


def test_nan_names_the_images_of_the_batch(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    train_set, val_set = read_data(config)
    assert train_set is not None
    original = Run._train_step

    def poison_third(run: Run, images: torch.Tensor, targets: Targets) -> tuple[float, float]:
        if run.step == 2:
            targets = Targets(targets.boxes_xyxy * torch.nan, targets.labels)
        return original(run, images, targets)

    monkeypatch.setattr(Run, "_train_step", poison_third)
    with pytest.raises(SsdEdgeError, match=r"the loss at step 2 is nan .* diverged, on the batch of") as error:
        train_on(train_set, val_set, config)
    keys = EpochBatches(len(train_set), 2, 2, config.seed).keys(2)
    assert len(keys) == 2
    assert all(train_set.records[index].path.name in str(error.value) for _, index in keys)


class KilledSamples(ImageSamples):
    """The sixth epoch kills the process that loads its first sample, as a system out of memory would."""

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        if key[0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


def test_a_killed_worker_is_named_and_the_steps_are_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.training.trainer.ImageSamples", KilledSamples)
    with pytest.raises(SsdEdgeError, match=r"a data-loading process is gone \(.*--workers 0"):
        train(replace(config, epochs=8, workers=1))
    assert 1 <= load_checkpoint(config.output / "last.pt").training["step"] < 10  # it had fetched ahead


def test_an_image_that_cannot_be_prepared_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("too round")

    monkeypatch.setattr("ssd_edge.data.augment.TrainTransform.__call__", fail)
    with pytest.raises(DatasetError, match=r"preparing \d\.png failed \(ArithmeticError: too round\)"):
        train(config)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a file's size stands for the disk's: the next checkpoint does not fit."""
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    last = config.output / "last.pt"
    before = last.read_bytes()
    assert len(before) > 8 * 1024
    options = "--epochs 2 --batch 2 --workers 0 --threads 1 --device cpu --no-amp --resume"
    command = f"{sys.executable} {TINY_ARCH} train {config.data} -o {config.output} --arch {WITH_NORM} {options}"
    limited = ["bash", "-c", f"ulimit -f 8; exec {command}"]  # 8 blocks of 1024 bytes
    result = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert re.search(r"error: cannot write .*last\.pt: .*choose a folder that .* has space", result.stderr), (
        result.stderr
    )
    assert "Traceback" not in result.stderr
    assert last.read_bytes() == before
    assert not list(config.output.glob(".*.part"))


def test_accumulated_parts_make_the_same_step(config: TrainConfig) -> None:
    """Without batch norm the gradient is that of the whole batch."""
    whole = replace(config, arch=WITHOUT_NORM, batch=4, epochs=3, output=config.output / "whole")
    parts = replace(whole, accumulate=3, output=config.output / "parts")
    states = [load_checkpoint(train(c).with_name("last.pt")).training["weights"] for c in (whole, parts)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_frozen_stages_stay(config: TrainConfig) -> None:
    config = replace(config, trainable_layers=1)
    torch.manual_seed(config.seed)
    start = create_model(config.arch, 1).state_dict()
    end = load_checkpoint(train(config)).state_dict
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert not any(name.startswith("backbone.blocks.0.") for name in changed)
    assert any(name.startswith("backbone.blocks.1.") for name in changed)


def test_without_an_average_the_last_weights_are_saved_once(config: TrainConfig) -> None:
    train(replace(config, ema=0.0))
    last = load_checkpoint(config.output / "last.pt")
    assert last.training["weights"] == {}


def test_evaluation_every_nth_epoch_and_after_the_last(config: TrainConfig) -> None:
    train(replace(config, epochs=5, eval_every=2))
    history = [json.loads(line) for line in (config.output / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history if "AP" in line] == [2, 4, 5]


def test_tensorboard_gets_losses_and_scores(config: TrainConfig) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(replace(config, tensorboard=True))
    events = accumulator.EventAccumulator(str(config.output))
    events.Reload()
    assert {"loss/localisation", "loss/classification", "lr", "val/AP"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("lr")] == [0, 1, 2, 3]
    assert [event.step for event in events.Scalars("val/AP")] == [2, 4]


def test_a_checkpoint_brings_its_default_boxes(config: TrainConfig) -> None:
    """Fitted boxes are part of what was learnt: fine-tuning keeps them though the new data are others."""
    first = train(config)
    fitted = load_checkpoint(first).card.default_boxes
    assert fitted is not None
    again = train(replace(config, weights=str(first), output=config.output / "again", seed=3))
    assert load_checkpoint(again).card.default_boxes == fitted
    own = train(replace(config, default_boxes="own", output=config.output / "own"))
    assert load_checkpoint(own).card.default_boxes is None


def stop_at(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, with Ctrl-C in that step."""
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config)


@pytest.mark.parametrize("changes", [{"ema": 0.0}, {"amp": True}, {"accumulate": 1, "preset": "torchvision"}])
def test_every_kind_of_state_survives_a_resume(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """Without an average; in bfloat16; with SGD, momentum and a warm-up. Losses of a whole epoch are reported too."""
    config = replace(config, epochs=3, **changes)  # type: ignore[arg-type]
    whole = replace(config, output=config.output / "whole")
    train(whole)
    stop_at(config, 3, monkeypatch)  # in the middle of the second epoch
    train(replace(config, resume=True))
    mine, theirs = (load_checkpoint(c.output / "last.pt") for c in (config, whole))
    assert mine.training["step"] == theirs.training["step"] == 6
    for name, value in theirs.state_dict.items():
        assert torch.equal(mine.state_dict[name], value), name
    histories = [
        [json.loads(line) for line in (c.output / "history.jsonl").read_text().splitlines()] for c in (config, whole)
    ]
    for line, expected in zip(*histories, strict=True):
        assert {k: line[k] for k in ("epoch", "loss", "AP")} == {k: expected[k] for k in ("epoch", "loss", "AP")}


def test_bfloat16_is_used_where_asked_for(config: TrainConfig) -> None:
    states = []
    for amp in (False, True):
        train(replace(config, amp=amp, output=config.output / str(amp)))
        states.append(load_checkpoint(config.output / str(amp) / "last.pt").state_dict)
    name = "head.regression_head.module_list.0.weight"
    assert states[1][name].dtype == torch.float32
    assert 0 < (states[0][name] - states[1][name]).abs().max() < 0.05


def with_scores(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the evaluations give these APs, one after the other; NaN raises."""
    rest = iter(scores)

    def evaluate(_: Run) -> dict[str, float]:
        score = next(rest)
        if np.isnan(score):
            raise KeyboardInterrupt
        return dict.fromkeys(("AP", "AP50", "AP75"), score)

    monkeypatch.setattr(Run, "_evaluate", evaluate)


def test_the_best_is_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scores([0.3, 0.5, 0.4], monkeypatch)
    assert load_checkpoint(train(replace(config, epochs=3))).card.metrics["val_AP"] == 0.5


def test_an_evaluation_that_was_interrupted_is_made_up_for(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scores([np.nan, 0.7], monkeypatch)
    config = replace(config, eval_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert load_checkpoint(config.output / "last.pt").training["step"] == 4
    assert not (config.output / "best.pt").exists()
    assert load_checkpoint(train(replace(config, resume=True))).card.metrics["val_AP"] == 0.7
    assert epochs_in_history(config) == [1, 2]


def test_gradients_are_clipped(config: TrainConfig) -> None:
    """By plain SGD: the weights move no further than rate × norm a step."""
    config = replace(config, preset="torchvision", epochs=1, batch=5, clip=1e-3, lr=0.5, warmup=0, weight_decay=0.0)
    torch.manual_seed(config.seed)
    start = create_model(config.arch, 1)
    end = load_checkpoint(train(config)).state_dict
    moved = torch.cat([(end[name] - p.detach()).flatten() for name, p in start.named_parameters()]).norm()
    assert moved == pytest.approx(0.5 * 1e-3, rel=0.02)


def test_no_augment_shows_the_images_as_they_are(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("augmented")

    monkeypatch.setattr("ssd_edge.data.augment.TrainTransform.__call__", fail)
    assert train(replace(config, augment=False)).exists()


def test_compiled_networks_are_saved_under_the_same_names(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: original(network, backend="eager"))
    state = load_checkpoint(train(replace(config, compile=True))).state_dict
    assert state.keys() == create_model(config.arch, 1).state_dict().keys()


def test_infinite_gradients_are_named_before_they_reach_the_weights(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.inf))
    with pytest.raises(SsdEdgeError, match=r"gradient's norm inf: training diverged, on the batch of \d\.png"):
        train(config)


def test_classes_are_kept_by_name(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    start = create_model(config.arch, 2)
    card = start.make_card(("circle", "square"), (1, 2))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(card, start.state_dict()))
    still = replace(config, epochs=1, lr=1e-9, weight_decay=0.0, weights=str(tmp_path / "start.pt"))
    data = write_yolo(tmp_path / "three", 4, ("square", "star", "moon"))
    tuned = load_checkpoint(train(replace(still, data=str(data)))).state_dict
    assert "square kept, star, moon start anew" in capsys.readouterr().err
    for name in ("weight", "bias"):
        key = f"head.classification_head.module_list.0.{name}"
        new = tuned[key].unflatten(0, (4, 4))  # boxes a cell × (background, square, star, moon)
        old = start.state_dict()[key].unflatten(0, (4, 3))  # boxes a cell × (background, circle, square)
        torch.testing.assert_close(new[:, :2], old[:, [0, 2]], atol=1e-6, rtol=0)
    assert not torch.allclose(new[:, 1], new[:, 2]) or name == "bias"


def test_another_architectures_checkpoint_is_named(config: TrainConfig) -> None:
    first = train(config)
    assert load_checkpoint(first).card.default_boxes is not None
    with pytest.raises(ModelFileError, match=r"best\.pt is of another architecture, tiny; expected ssd300_vgg16"):
        train(replace(config, arch="ssd300_vgg16", weights=str(first), output=config.output / "other"))


def test_own_boxes_are_the_architectures_also_after_fitted_ones(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(config)
    own = train(replace(config, weights=str(first), default_boxes="own", output=config.output / "own"))
    assert load_checkpoint(own).card.default_boxes is None
    assert "was trained on other default boxes" in capsys.readouterr().err


def test_a_resume_needs_the_weights_it_began_with_no_more(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = train(config).rename(tmp_path / "start.pt")
    config = replace(config, weights=str(start), output=tmp_path / "tuned")
    stop_at(config, 2, monkeypatch)
    start.unlink()
    assert train(replace(config, resume=True)).exists()


@pytest.mark.parametrize("preset", ["small", "torchvision"])
def test_nothing_but_crowds_is_nothing_to_learn(config: TrainConfig, preset: str) -> None:
    dataset = read_dataset(Path(config.data))
    crowds = replace(dataset, records=tuple(replace(r, crowd=np.ones(1, bool)) for r in dataset.records))
    with pytest.raises(DatasetError, match="all boxes are crowds"):
        train_on(crowds, dataset, replace(config, preset=preset))


def test_a_preset_that_changed_is_not_resumed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(config, 2, monkeypatch)
    monkeypatch.setattr("ssd_edge.training.recipes._SMALL", replace(recipe_for("small", config.arch), ema=0.5))
    with pytest.raises(UsageError, match=r"ema 0\.998 -> 0\.5"):
        train(replace(config, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": -1.0}, "clip is -1.0; expected a number from 0"),
        ({"hflip": 2.0}, "hflip is 2.0; expected a number from 0 to 1"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"data": "codes", "hflip": 0.5}, "hflip: the scenes of codes have no splits"),
        ({"default_boxes": "mine"}, "unknown default_boxes 'mine'; there are own, fit, ssd300"),
        ({"weights": "coco"}, "no weights coco are published for tiny; there are none"),
        ({"eval_every": 0}, "eval_every is 0"),
    ],
)
def test_values_out_of_range(config: TrainConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(config, **changes)  # type: ignore[arg-type]


def test_a_warm_up_for_a_schedule_that_has_its_own(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="rises over its first tenth"):
        train(replace(config, warmup=10))


def test_signal_handlers_are_put_back(config: TrainConfig) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    train(replace(config, epochs=1, workers=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before


def test_published_detectors_keep_classes_by_name(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As COCO's 90 columns are kept for a dataset of its 80 names, or of two of them."""
    torch.manual_seed(5)
    published = create_model(config.arch, 3).state_dict()
    weights = {"coco": PublishedWeights("https://example.org/w-00000000.pth", class_names=("N/A", "square", "cat"))}
    tiny = ARCHITECTURES[config.arch]
    monkeypatch.setitem(ARCHITECTURES, config.arch, replace(tiny, weights=weights))
    monkeypatch.setattr("ssd_edge.training.initial_model.fetch_weights", lambda _: published)
    still = replace(config, epochs=1, lr=1e-9, weight_decay=0.0, weights="coco")
    tuned = load_checkpoint(train(still))
    assert tuned.card.default_boxes is None  # the trained head's
    key = "head.classification_head.module_list.0.bias"
    old, new = published[key].unflatten(0, (4, 4)), tuned.state_dict[key].unflatten(0, (4, 2))
    torch.testing.assert_close(new, old[:, [0, 2]], atol=1e-6, rtol=0)


def test_default_boxes_from_a_file(config: TrainConfig, tmp_path: Path) -> None:
    comparison = compare_boxes(read_dataset(Path(config.data)), config.arch)
    (tmp_path / "boxes.json").write_text(comparison.to_json())
    config = replace(config, default_boxes=str(tmp_path / "boxes.json"))
    written = load_checkpoint(train(config)).card.default_boxes
    assert comparison.config is not None
    assert written == comparison.config.to_dict()
    (tmp_path / "boxes.json").write_text("[1, 2]")
    with pytest.raises(ModelFileError, match=r"boxes\.json"):
        train(replace(config, output=config.output / "again"))
    with pytest.raises(ModelFileError, match="cannot read default boxes"):
        train(replace(config, default_boxes="absent.json", output=config.output / "again"))
    with pytest.raises(UsageError, match="7 levels"):
        train(replace(config, default_boxes="ssd512_voc", output=config.output / "again"))
