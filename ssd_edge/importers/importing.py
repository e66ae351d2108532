"""Take a detector of another project in: find its family, apply the four steps, and say what was assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.importers.amdegroot import Amdegroot
from ssd_edge.importers.caffe import Caffe
from ssd_edge.importers.conversions import FIRST, background_first, rgb_from_bgr
from ssd_edge.importers.family import Assumption, Facts, Family, Files, Normalisation, Settings
from ssd_edge.importers.labels import made_up, read_labels, without_background
from ssd_edge.importers.pytorch_ssd import PyTorchSSD
from ssd_edge.importers.pytorch_ssd_lightning import PyTorchSSDLightning
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.importers.torchvision import Torchvision
from ssd_edge.models.create import create_from_card
from ssd_edge.models.default_box_presets import PRESETS
from ssd_edge.models.ssd import SSD, card_of

FAMILIES: tuple[Family[Any], ...] = (Torchvision(), PyTorchSSD(), Amdegroot(), PyTorchSSDLightning(), Caffe())
SHOWN_NAMES = 3  # of tensors, in a message


@dataclass(frozen=True)
class Imported:
    """A detector of another project in our terms.

    Attributes:
        card: what it is.
        state_dict: its tensors under our names.
        family, variant: what it was recognised as.
        named: the class names are known, and not made up.
        assumptions: what the files do not say.
    """

    card: ModelCard
    state_dict: dict[str, Tensor]
    family: str
    variant: str
    named: bool
    assumptions: tuple[Assumption, ...]


def import_model(paths: Sequence[Path], facts: Facts | None = None, *, family: str | None = None) -> Imported:
    """Take a detector in.

    Args:
        paths: its file, or files.
        facts: what the user says about it.
        family: of `FAMILIES`, by name; None: the one that fits.

    Raises:
        ModelFileError: not readable, of no known family, not whole, or with values that are not finite.
        UsageError: what the user says does not fit the files.
    """
    facts = facts or Facts()
    files = Files(paths, facts)
    (chosen, source, variant), *others = _recognised(files, family)
    settings = chosen.configure(source, variant, facts)
    normalisation, assumed = chosen.preprocess(source, variant, facts)
    config = _with_facts(settings, normalisation, facts)
    names, named, named_by = _class_names(chosen, files, settings)
    ids = tuple(range(1, settings.num_classes + 1))
    template = create_from_card(card_of(config, names, ids), source=str(files.paths[0]))
    state = _renamed(chosen, chosen.tensors(source), variant, template, files.paths[0])
    if chosen.name != Caffe.name:  # which brings its tensors in this order
        state = rgb_from_bgr(template, state) if facts.bgr else state
        state = background_first(state, settings.num_classes, facts.background or FIRST)
    card = replace(template.make_card(names, ids), parent_sha256=file_sha256(files.paths[-1]))
    named_otherwise = facts.class_names is not None or bool(named_by)
    configured = [each for each in settings.assumptions if not (named_otherwise and each.option == "--classes")]
    normalised = () if facts.mean and facts.std else assumed
    also = [Assumption(f"family: {chosen.name}, though {other.name} fits too", "--family") for other, _, _ in others]
    assumptions = (*also, *_which_weights(source), *configured, *normalised, *named_by)
    return Imported(card, state, chosen.name, variant, named, assumptions)


def _which_weights(source: object) -> list[Assumption]:
    """Which of several weights of a checkpoint are taken."""
    if not isinstance(source, StateDict) or not source.others:
        return []
    return [Assumption(f"weights: the entry {source.entry}, not {' or '.join(source.others)}", "--entry")]


def _recognised(files: Files, family: str | None) -> list[tuple[Family[Any], Any, str]]:
    """The families and variants that fit, with what each has read: at least one."""
    candidates = [each for each in FAMILIES if family in (None, each.name)]
    if not candidates:
        raise UsageError(f"unknown family {family!r}; there are {', '.join(each.name for each in FAMILIES)}")
    found = [
        (each, source, variant)
        for each in candidates
        if (source := each.open(files)) is not None
        for variant in each.recognise(source)
    ]
    if not found:
        raise ModelFileError(_unknown(files, candidates))
    return found


def _unknown(files: Files, candidates: Sequence[Family[Any]]) -> str:
    path = files.paths[0]
    known = "; ".join(f"{each.name}: {each.about}" for each in candidates)
    if "state_dict" not in vars(files):
        return f"{path}: no file of a known kind; known are {known}"
    tensors = files.state_dict.tensors
    kind = _kind_of(tensors)
    shown = ", ".join(list(tensors)[:SHOWN_NAMES])
    found = kind or "no detector of a known family"
    return f"{path}: {found} ({len(tensors)} tensors, such as {shown}); known are {known}"


def _kind_of(tensors: Mapping[str, Tensor]) -> str | None:
    """What a state dict looks like that is no SSD."""
    if any(re.match(r"\d+\.(conv|cv\d|m)\.", name) for name in tensors):
        return "the names are those of a YOLO, not of an SSD"
    if any(name.startswith(("fc.", "classifier.", "head.fc")) and value.ndim == 2 for name, value in tensors.items()):
        return "it ends in a fully connected layer: a classifier, not a detector"
    if any(name.startswith(("rpn.", "roi_heads.")) for name in tensors):
        return "the names are those of a detector with proposals (Faster R-CNN), not of an SSD"
    return None


def _with_facts(settings: Settings, normalisation: Normalisation, facts: Facts) -> Any:
    """The settings, where the user says nothing else."""
    config = replace(settings.config, mean=facts.mean or normalisation.mean, std=facts.std or normalisation.std)
    given = ("score_threshold", "nms_iou", "candidates", "detections", "size_hw")
    config = replace(config, **{name: value for name in given if (value := getattr(facts, name)) is not None})
    if facts.default_boxes is None:
        return config
    if facts.default_boxes not in PRESETS:
        raise UsageError(f"unknown default boxes {facts.default_boxes!r}; there are {', '.join(PRESETS)}")
    # What is limited to the image is a matter of the family's code, not of the preset.
    return replace(config, default_boxes=replace(PRESETS[facts.default_boxes], clip=config.default_boxes.clip))


def _class_names(
    family: Family[Any], files: Files, settings: Settings
) -> tuple[tuple[str, ...], bool, list[Assumption]]:
    """The class names, whether they are known, and what to say about them."""
    count, given = settings.num_classes, files.facts.class_names
    if given is not None:
        return without_background(given, count, "--classes"), True, []
    labels = files.paths[0].with_name(family.labels_file) if family.labels_file else None
    if labels is not None and labels.is_file():
        names = without_background(read_labels(labels), count, str(labels))
        return names, True, [Assumption(f"class names: from {labels}", "--classes")]
    if settings.class_names is not None:
        return settings.class_names, True, []
    return (
        made_up(count),
        False,
        [Assumption(f"class names: not in the file; called {_some(made_up(count))}", "--classes")],
    )


def _renamed(
    family: Family[Any], tensors: dict[str, Tensor], variant: str, template: SSD, path: Path
) -> dict[str, Tensor]:
    """The file's tensors under our names.

    Raises:
        ModelFileError: some are missing, have another shape, are not finite, or have no place in the detector.
    """
    own = template.state_dict()
    theirs = {name: family.rename(name, variant) for name in own}
    counters = {name for name in own if name.endswith(".num_batches_tracked")}  # older files have none
    missing = [theirs[name] for name in own if theirs[name] not in tensors and name not in counters]
    if missing:
        raise ModelFileError(f"{path}: not whole: {len(missing)} of {len(own)} tensors are missing: {_some(missing)}")
    unused = [name for name in tensors if name not in set(theirs.values()) and not family.unused(name)]
    if unused:
        raise ModelFileError(
            f"{path}: {len(unused)} tensors have no place in {family.name}'s {variant}: {_some(unused)}; the network "
            "is another one"
        )
    state = {name: tensors.get(theirs[name], own[name]) for name in own}
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ModelFileError(
                f"{path}: {theirs[name]} is {list(value.shape)}, {family.name}'s {variant} has {list(own[name].shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelFileError(f"{path}: {theirs[name]} has values that are not finite; the training broke down")
    return state


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
