"""Published weights without a network: stand-ins, random but of the real files' names and shapes, lie in the cache."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import _mobilenet_extractor
from torchvision.models.vgg import cfgs, make_layers

from ssd_edge.errors import ModelFileError
from ssd_edge.models import weights
from ssd_edge.models.architecture import ARCHITECTURES, PublishedWeights
from ssd_edge.models.backbone_mobilenet import batch_norm, fold_imagenet_scaling
from ssd_edge.models.create import COCO_CLASSES, create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.weights import LoadReport, load_fitting, load_published
from tests.ssd_edge.exploit import Exploit

LITE = "ssdlite320_mobilenet_v3_large"
COCO_FILE = "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
FULL_TAIL = "ssdlite320_mobilenet_v3_large_full_tail"
MOBILENET_FILE = "mobilenet_v3_large-8738ca79.pth"

OF_SOMETHING_ELSE = (
    r"resnet50-0676ba61\.pth: of 2 tensors, such as features\.0\.weight, none has the name and shape of one of the "
    r"model's, such as backbone\.features\.conv1\.weight"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's folder for downloads, in which every file passes for the one that its name says."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "file_sha256", lambda path: path.stem.rpartition("-")[2])
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    return folder


def no_network(*_: object, **__: object) -> None:
    raise URLError("no route")


def classifier(net: nn.Module) -> dict[str, Tensor]:
    """Its state dict, all numbers random."""
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }


def test_without_a_network_the_file_and_its_place_are_named(cache: Path) -> None:
    for arch, word, file in (
        (LITE, "coco", COCO_FILE),
        ("ssd300_vgg16", "coco", "ssd300_vgg16_coco-b556d3b4.pth"),
        (LITE, "imagenet", MOBILENET_FILE),
        (FULL_TAIL, "imagenet", MOBILENET_FILE),
        ("ssd300_vgg16", "imagenet", "vgg16_features-amdegroot-88682ab5.pth"),
        ("ssd512_vgg16", "imagenet", "vgg16_features-amdegroot-88682ab5.pth"),
        ("ssd300_resnet50", "imagenet", "resnet50-0676ba61.pth"),
    ):
        with pytest.raises(ModelFileError) as error:
            load_published(nn.Identity(), ARCHITECTURES[arch].weights[word])
        assert f"download https://download.pytorch.org/models/{file} and put it at {cache / file}" in str(error.value)


@pytest.mark.parametrize("arch", [LITE, "ssd300_vgg16"])
def test_published_detectors_say_what_their_columns_detect(arch: str) -> None:
    """The columns behind the background: COCO's ids from 1 on, ten of which name nothing."""
    names = ARCHITECTURES[arch].weights["coco"].class_names
    assert names is not None
    assert (len(names), names.count("N/A")) == (COCO_CLASSES, 10)
    assert (names[0], names[11], names[12], names[89]) == ("person", "N/A", "stop sign", "toothbrush")
    assert ARCHITECTURES[arch].weights["imagenet"].class_names is None


def test_a_weights_file_put_by_hand_is_not_trusted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cache / COCO_FILE
    torch.save({"model": Exploit()}, place)
    with pytest.raises(
        ModelFileError, match=f"(?s)could not be fetched or read.*{place}"
    ):  # eight digits can be forged
        create_model(LITE, 90, weights="coco")
    monkeypatch.undo()
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(cache.parent))
    with pytest.raises(ModelFileError, match=f"{place} is cut off or another file"):
        create_model(LITE, 90, weights="coco")


def test_torchvisions_detectors_load_as_they_are(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    published = classifier(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91))
    torch.save(published, cache / COCO_FILE)
    model = create_model(LITE, 90, weights="coco").state_dict()
    assert model.keys() == published.keys()
    assert all(torch.equal(model[name], published[name]) for name in model)
    assert not caplog.records


def test_coco_weights_for_other_classes_start_only_the_class_heads_anew(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = create_model(LITE, 90).state_dict()
    torch.save(published, cache / COCO_FILE)
    model = create_model(LITE, 4, weights="coco").state_dict()
    anew = {name for name in model if model[name].shape != published[name].shape}
    assert anew == {f"head.classification_head.module_list.{i}.1.{p}" for i in range(6) for p in ("weight", "bias")}
    assert all(torch.equal(model[name], published[name]) for name in model if name not in anew)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].endswith("tensors loaded, 12 start anew: head.classification_head (12)")


def test_vgg_backbones_start_from_the_file_that_torchvisions_start_from(cache: Path) -> None:
    """Equal to torchvision's extractor around the same layers; its classifier is not needed."""
    layers = make_layers(cfgs["D"], batch_norm=False)
    state = {f"features.{name}": value for name, value in classifier(layers).items()}
    torch.save(
        {**state, "classifier.0.weight": torch.full((2, 2), torch.nan)}, cache / "vgg16_features-amdegroot-88682ab5.pth"
    )
    layers.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    for arch, highres in (("ssd300_vgg16", False), ("ssd512_vgg16", True)):
        expected = SSDFeatureExtractorVGG(make_layers(cfgs["D"], batch_norm=False), highres).state_dict()
        ours = create_model(arch, 2, weights="imagenet").backbone.state_dict()
        assert ours.keys() == expected.keys()
    theirs = SSDFeatureExtractorVGG(layers, highres=True).state_dict()
    of_vgg = [
        name for name in theirs if name.startswith("features.") or (name.startswith("extra.0.") and ".7." not in name)
    ]
    assert len(of_vgg) == 26  # 13 convolutions
    assert all(torch.equal(ours[name], theirs[name]) for name in of_vgg)


def test_mobilenet_loads_what_fits_its_reduced_tail(cache: Path) -> None:
    """Equal to torchvision's extractor around the full network, as far as that has our shapes."""
    full = mobilenet_v3_large(weights=None, norm_layer=batch_norm)
    full.load_state_dict(classifier(full))
    torch.save(full.state_dict(), cache / MOBILENET_FILE)
    full.load_state_dict(fold_imagenet_scaling(full.state_dict()))
    theirs = _mobilenet_extractor(full, 6, batch_norm).state_dict()
    model = create_model(LITE, 2)
    report = load_published(model, ARCHITECTURES[LITE].weights["imagenet"])
    ours = model.backbone.state_dict()
    assert ours.keys() == theirs.keys()
    fitting = {n for n in ours if not n.startswith("extra.") and ours[n].shape == theirs[n].shape and ours[n].ndim}
    assert {name.removeprefix("backbone.") for name in report.kept} == fitting
    assert all(torch.equal(ours[name], theirs[name]) for name in fitting)
    assert all(name in fitting for name in ours if name.startswith("features.0.") and ours[name].ndim)
    assert "backbone.features.1.0.1.0.weight" in report.kept  # C4's depthwise layer: 672 channels in both
    assert "backbone.features.1.0.3.0.weight" in report.anew  # its projection: to 80 channels instead of 160
    assert {name.split(".")[0] for name in report.anew} == {"backbone", "head"}


def test_mobilenet_with_the_full_tail_loads_all_that_is_pretrained(cache: Path) -> None:
    full = mobilenet_v3_large(weights=None, norm_layer=batch_norm)
    full.load_state_dict(classifier(full))
    torch.save(full.state_dict(), cache / MOBILENET_FILE)
    report = load_published(create_model(FULL_TAIL, 2), ARCHITECTURES[FULL_TAIL].weights["imagenet"])
    assert len(report.kept) == sum(value.ndim > 0 for value in full.features.state_dict().values())
    assert {".".join(name.split(".")[:2]) for name in report.anew} == {
        "backbone.extra",
        "head.classification_head",
        "head.regression_head",
    }
    assert report.dropped == ("classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias")
    assert str(report).endswith("; 4 of the file have no use here: classifier.0 (2), classifier.3 (2)")


@torch.no_grad()
def test_mobilenet_sees_images_as_in_its_training(cache: Path) -> None:
    """Its first layers, off the padded border, equal torchvision's fed with ImageNet's mean and std.

    Without padding of the first layer, everything does.
    """
    torch.manual_seed(0)
    full = mobilenet_v3_large(weights=None, norm_layer=batch_norm).eval()
    nn.init.normal_(full.features[0][1].running_mean)
    torch.save(full.state_dict(), cache / MOBILENET_FILE)
    model = create_model(FULL_TAIL, 2, weights="imagenet").eval()
    images = 255 * torch.rand(2, 3, 320, 320)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    theirs, ours = (images / 255 - mean) / std, (images - model.mean) / model.std
    features: Any = model.backbone.get_submodule("features")
    expected, first = full.features[:4](theirs), features[0][:4](ours)
    # The border reaches one more row and column at strides 2, 1, 2 and 1 each.
    torch.testing.assert_close(first[..., 3:, 3:], expected[..., 3:, 3:], atol=1e-5, rtol=1e-4)
    assert (first - expected)[..., 0, 0].abs().max() > 0.001
    full.features[0][0].padding = features[0][0][0].padding = (0, 0)
    expected, (_, last, *_) = full.features(theirs), model.backbone(ours)
    torch.testing.assert_close(last, expected, atol=1e-4 * float(expected.std()), rtol=1e-4)


def test_resnet_loads_all_but_its_last_stage(cache: Path) -> None:
    net = resnet50(weights=None)
    state = {name: value for name, value in classifier(net).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, cache / "resnet50-0676ba61.pth")  # that file is older than num_batches_tracked
    model = create_model("ssd300_resnet50", 2, weights="imagenet")
    ours = model.state_dict()
    loaded = [name for name in state if not name.startswith(("layer4.", "fc."))]
    assert all(torch.equal(ours[f"backbone.features.{name}"], state[name]) for name in loaded)
    left = {n.removeprefix("backbone.features.") for n in ours if n.startswith("backbone.features.")} - set(loaded)
    assert all(name.endswith("num_batches_tracked") for name in left)


def test_a_file_of_something_else_is_refused(cache: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1), "fc.weight": torch.zeros(2)}, cache / "resnet50-0676ba61.pth")
    with pytest.raises(ModelFileError, match=OF_SOMETHING_ELSE):
        create_model("ssd300_resnet50", 2, weights="imagenet")
    torch.save({"features.0.weight": torch.zeros(1)}, cache / MOBILENET_FILE)
    with pytest.raises(ModelFileError, match=r"8738ca79\.pth: no tensor 'features\.0\.0\.weight' in it"):
        create_model(LITE, 2, weights="imagenet")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("mine-v2-0676ba6152.tar.gz?download=1", "0676ba6152"),
        ("mine.pth", None),
        ("mine-v2.pth", None),
        ("mine-face.pth?name=x-0676ba61.pth", None),
    ],
)
def test_the_hash_is_checked_where_the_name_has_one(
    name: str, prefix: str | None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "file_sha256", lambda _: "00")
    published = PublishedWeights(f"https://example.org/models/{name}")
    place = cache / name.split("?")[0]
    assert (published.file_name, published.sha256_prefix) == (place.name, prefix)
    torch.save({"a": torch.ones(2)}, place)
    if prefix is None:
        assert weights.fetch_weights(published)["a"].tolist() == [1, 1]
    else:
        with pytest.raises(ModelFileError, match=f"does not begin with {prefix}; remove it"):
            weights.fetch_weights(published)


def test_a_detector_trained_with_other_default_boxes_is_named(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = create_model(LITE, 90)
    torch.save(model.state_dict(), cache / COCO_FILE)
    own = model.config.default_boxes
    create_model(LITE, 90, weights="coco", default_boxes=replace(own))
    assert not caplog.records
    create_model(LITE, 90, weights="coco", default_boxes=replace(own, clip=False))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("weights 'coco' of the whole detector with other default boxes: ")


def test_weights_of_another_architecture_are_refused() -> None:
    state = create_model("ssd300_resnet50", 2).state_dict()
    model = create_model(LITE, 2)
    with pytest.raises(
        ModelFileError, match=r"another architecture: \d+ names differ, such as backbone\.extra\.0\.0\."
    ):
        load_fitting(model, state)
    with pytest.raises(ModelFileError, match="another architecture, ssd300_resnet50: "):
        load_fitting(model, state, arch="ssd300_resnet50")


def test_other_default_boxes_start_the_heads_of_their_levels_anew() -> None:
    """4 boxes of 5 + 1 columns have the shape of 6 boxes of 3 + 1: all the same, another meaning."""
    own = create_model(LITE, 3)  # 6 boxes, 4 columns
    level_0 = DefaultBoxConfig(((2,), *((2, 3),) * 5), own.config.default_boxes.scales)
    model = create_model(LITE, 5, default_boxes=level_0)  # at level 0: 4 boxes, 6 columns
    name = "head.classification_head.module_list.0.1.weight"
    assert model.state_dict()[name].shape == own.state_dict()[name].shape
    report = load_fitting(model, own.state_dict())
    heads = [f"head.classification_head.module_list.{level}.1" for level in range(6)]
    heads.append("head.regression_head.module_list.0.1")
    assert set(report.anew) == {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    assert set(report.kept) | set(report.anew) == set(model.state_dict())


def test_the_report_reads_well() -> None:
    assert str(LoadReport(("a", "b"), ())) == "all 2 tensors loaded"
    report = LoadReport(("a",), ("head.x.0.weight", "head.x.0.bias", "backbone.extra.1.weight"))
    assert str(report) == "1 tensors loaded, 3 start anew: head.x (2), backbone.extra (1)"
