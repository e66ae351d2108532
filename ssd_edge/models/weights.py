"""Published weights: fetch them, and load what fits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from ssd_edge.card import file_sha256
from ssd_edge.errors import ModelFileError
from ssd_edge.models.architecture import PublishedWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What became of a model's parameters and buffers when a state dict was loaded, by name.

    Attributes:
        kept: loaded.
        anew: not in the state dict, or of another shape there: they start anew.
        dropped: of the state dict, under its names: the model has no use for them.
    """

    kept: tuple[str, ...]
    anew: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"all {len(self.kept)} tensors loaded"
        if self.anew:
            text = f"{len(self.kept)} tensors loaded, {len(self.anew)} start anew: {_grouped(self.anew)}"
        if self.dropped:
            text += f"; {len(self.dropped)} of the file have no use here: {_grouped(self.dropped)}"
        return text


def fetch_weights(published: PublishedWeights) -> dict[str, Tensor]:
    """The state dict of published weights, on the CPU: from PyTorch's cache, or downloaded into it.

    Raises:
        ModelFileError: they cannot be fetched, or the file in their place is another one; the message names the file
            and where to put it.
    """
    url = published.url
    place = Path(torch.hub.get_dir()) / "checkpoints" / published.file_name
    sha256_prefix = published.sha256_prefix  # torch checks it of what it downloads, not of a file put there
    if sha256_prefix and place.is_file() and not file_sha256(place).startswith(sha256_prefix):
        raise ModelFileError(
            f"{place} is cut off or another file: its SHA-256 does not begin with {sha256_prefix}; "
            f"remove it, and download {url} again"
        )
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=True, check_hash=sha256_prefix is not None, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:  # OSError: also urllib's
        raise ModelFileError(
            f"the published weights could not be fetched or read ({error}); "
            f"on a machine with a network download {url} and put it at {place}"
        ) from error
    return state


def load_published(model: nn.Module, published: PublishedWeights) -> LoadReport:
    """Fetch published weights and load what fits: a whole detector, or a backbone trained to classify.

    Raises:
        ModelFileError: as `fetch_weights`, or the file does not hold such weights.
    """
    state = fetch_weights(published)
    if published.convert is not None:
        try:
            state = published.convert(state)
        except KeyError as error:
            raise ModelFileError(f"{published.file_name}: no tensor {error} in it; the weights are others") from error
    if published.rename is None:
        return load_fitting(model, state)
    # num_batches_tracked goes with layers that may not fit; torch reads it only where momentum is None.
    theirs = [name for name in state if not name.endswith(".num_batches_tracked")]
    return _load(model, state, {name: published.rename(name) for name in theirs}, source=published.file_name)


def load_fitting(model: nn.Module, state: Mapping[str, Tensor], *, arch: str | None = None) -> LoadReport:
    """Load a state dict of the same architecture; layers of another shape start anew, which is logged.

    Those are the heads, where it has other classes or another number of default boxes a cell.

    Args:
        arch: the architecture that the state dict is of, where that is known, for the message.

    Raises:
        ModelFileError: it is of another architecture.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        strangers = sorted(own.keys() ^ state.keys())
        raise ModelFileError(
            f"the weights are of another architecture{f', {arch}' if arch else ''}: {len(strangers)} names differ, "
            f"such as {strangers[0]}; start from weights of the architecture that is asked for"
        )
    return _load(model, state, {name: name for name in state}, source="the weights")


def _load(model: nn.Module, file: Mapping[str, Tensor], names: Mapping[str, str | None], *, source: str) -> LoadReport:
    """Load what fits of a file's tensors; `names`: those in the file to those in the model."""
    own = model.state_dict()
    state = {ours: file[name] for name, ours in names.items() if ours}
    kept = {name: value for name, value in state.items() if _fits(name, own, state)}
    if not kept:
        raise ModelFileError(
            f"{source}: of {len(file)} tensors, such as {next(iter(file), None)}, none has the name and shape of one "
            f"of the model's, such as {next(iter(own), None)}; these are weights of something else"
        )
    anew = [name for name in own if name not in kept and (name in state or not name.endswith(".num_batches_tracked"))]
    model.load_state_dict(own | kept)
    dropped = [name for name, ours in names.items() if ours not in own]
    report = LoadReport(tuple(kept), tuple(anew), tuple(dropped))
    if anew:
        logger.warning("%s: %s", source, report)
    return report


def _fits(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor has its place in the model.

    A class layer has it only where the level has the same number of default boxes, which its twin for the offsets
    tells: 4 boxes of 6 columns have the shape of 6 boxes of 4.
    """
    twin = name.replace(".classification_head.", ".regression_head.")

    def same_shape(key: str) -> bool:
        return key in own and key in state and own[key].shape == state[key].shape

    return same_shape(name) and (twin not in own or same_shape(twin))


def _grouped(names: Iterable[str]) -> str:
    """`backbone.extra (20), head.regression_head (12)`: names by their first two parts, with how many there are."""
    groups = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in groups.items())
