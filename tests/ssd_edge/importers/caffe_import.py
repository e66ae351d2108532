"""The family's four steps, as `ssd-edge import` takes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ssd_edge.importers.caffe import Caffe, CaffeModel
from ssd_edge.importers.family import Facts, Files
from ssd_edge.models.layer_graph import architecture_of
from ssd_edge.models.ssd import SSD
from tests.ssd_edge.importers.caffe_networks import fill_weights


@dataclass(frozen=True)
class Imported:
    model: SSD
    source: CaffeModel
    assumptions: tuple[str, ...]
    class_names: tuple[str, ...] | None


def write(folder: Path, text: str) -> tuple[Path, Path]:
    """A prototxt and a caffemodel of filled weights."""
    prototxt, caffemodel = folder / "deploy.prototxt", folder / "net.caffemodel"
    prototxt.write_text(text, encoding="utf-8")
    fill_weights(prototxt, caffemodel)
    return prototxt, caffemodel


def opened(*paths: Path, facts: Facts | None = None) -> CaffeModel:
    source = Caffe().open(Files(paths, facts or Facts()))
    assert source is not None
    return source


def imported(*paths: Path, facts: Facts | None = None) -> Imported:
    """The family's four steps, and the model that they make."""
    family, facts = Caffe(), facts or Facts()
    source = opened(*paths, facts=facts)
    (variant,) = family.recognise(source)
    settings = family.configure(source, variant, facts)
    normalisation, assumed = family.preprocess(source, variant, facts)
    mean, std = facts.mean or normalisation.mean, facts.std or normalisation.std
    config = replace(settings.config, mean=mean, std=std)
    assert config.network is not None
    network = json.loads(json.dumps(config.network))  # as a card has it
    model = architecture_of("caffe", network, config).make(settings.num_classes)
    model.load_state_dict({name: family.tensors(source)[family.rename(name, variant)] for name in model.state_dict()})
    return Imported(model.eval(), source, tuple(map(str, (*settings.assumptions, *assumed))), settings.class_names)
