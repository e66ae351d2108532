"""Named tensors out of the files of other projects: PyTorch checkpoints of many wrappings, and safetensors."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ssd_edge.card import CHECKPOINT_FORMAT
from ssd_edge.choices import CHECKPOINT_SUFFIXES
from ssd_edge.errors import ModelFileError, UsageError, reason

SUFFIXES = (*CHECKPOINT_SUFFIXES, ".bin", ".tar", ".pkl")
# Entries of a checkpoint that hold its weights, the averaged ones first: they are what its project evaluates.
ENTRIES = ("model_ema", "ema_state_dict", "ema", "model", "state_dict", "model_state_dict", "net", "network", "weights")
# What wrappers put before each name: DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch before 1.6 began a file
_NO_STATE = "has no tensors by name; expected a state dict, as torch.save(model.state_dict(), FILE) writes it"


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file.

    Attributes:
        path: the file.
        tensors: float32 or integer, by the names of the detector, without the prefixes of wrappers.
        entry: the entry of the checkpoint that they come from; None where it holds nothing else.
        others: other entries of it that hold weights too.
    """

    path: Path
    tensors: dict[str, Tensor]
    entry: str | None = None
    others: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor; None where there is none of that name."""
        tensor = self.tensors.get(name)
        return None if tensor is None else tuple(tensor.shape)


def read_state_dict(path: Path, *, entry: str | None = None) -> StateDict:
    """Read the tensors of a PyTorch or safetensors file of any project; runs no code that the file brings.

    Args:
        entry: the entry of the checkpoint to take; None: the averaged weights where there are some, else the weights.

    Raises:
        ModelFileError: no such file, not readable, or without named tensors; for what only pickle could load, the
            message has the line of Python that saves the state dict.
        UsageError: the file has no such entry.
    """
    if not path.is_file():
        raise ModelFileError(f"no model file {path}; check the path")
    content = load_safetensors(path)[0] if path.suffix == ".safetensors" else load_tensors_only(path)
    if isinstance(content, Mapping) and content.get("format") == CHECKPOINT_FORMAT:
        raise ModelFileError(f"{path} is a checkpoint of ssd-edge already; every command takes it as it is")
    tensors, taken, others = _unwrapped(content, path, entry)
    tensors = {name: value for name, value in _without_prefixes(tensors).items() if name != "n_averaged"}
    if not tensors:
        raise ModelFileError(f"{path} {_NO_STATE}")
    return StateDict(path, {name: _as_float32(value) for name, value in tensors.items()}, taken, others)


def load_tensors_only(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU, as long as that is tensors, plain values and the options of argparse.

    Raises:
        ModelFileError: it holds other objects, or is not readable.
    """
    if _is_torchscript(path):
        raise ModelFileError(
            f"{path} is a TorchScript program, not weights; save its state dict with "
            f"`torch.save(torch.jit.load({str(path)!r}).state_dict(), {_state_name(path)!r})` and give that file"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_torch_file(path):
            raise ModelFileError(f"{path} is not a PyTorch checkpoint; expected what torch.save writes") from error
        raise ModelFileError(
            f"{path} holds Python objects, not only tensors: loading it could run code that it brings along. "
            "If you trust it, run in the project that wrote it `import torch; m = torch.load("
            f"{str(path)!r}, weights_only=False); torch.save((m if isinstance(m, dict) else m.state_dict()), "
            f"{_state_name(path)!r})` and give that file"
        ) from error
    except Exception as error:  # torch fails on foreign bytes with a dozen kinds of error
        raise ModelFileError(f"{path} is not a readable PyTorch checkpoint ({reason(error)}); copy it again") from error


def _state_name(path: Path) -> str:
    return str(path.with_name(f"{path.stem}.state.pth"))


def _is_torch_file(path: Path) -> bool:
    """Of torch's zip format, or of that before 1.6; `zipfile.is_zipfile` would raise on some damaged files."""
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    return head.startswith(b"PK\x03\x04") or head == _LEGACY_MAGIC


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # whatever it is, torch says it


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        ModelFileError: it is not readable.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error


def _unwrapped(content: Any, path: Path, entry: str | None) -> tuple[Mapping[str, Tensor], str | None, tuple[str, ...]]:
    """The state dict within a checkpoint, the name of its entry, and other entries that hold one."""
    if entry is None and is_state_dict(content):
        return content, None, ()
    if not isinstance(content, Mapping):
        raise ModelFileError(f"{path} {_NO_STATE}, got {type(content).__name__}")
    there_are = [str(name) for name, value in content.items() if value and is_state_dict(value)]
    if entry is not None:
        if entry not in there_are:
            raise UsageError(
                f"{path} has no weights under {entry!r}; there are {', '.join(there_are) or 'none under any name'}"
            )
        return content[entry], entry, ()
    for name in (*ENTRIES, *there_are):
        if name in there_are:
            return content[name], name, tuple(other for other in there_are if other != name)
    raise ModelFileError(f"{path} {_NO_STATE}; its entries are {', '.join(map(str, content))[:200] or 'none'}")


def is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether a value out of a file is tensors by name."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _without_prefixes(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names without what all of them begin with and a wrapper has put there."""
    names = [name for name in tensors if name != "n_averaged"]
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors


def _as_float32(value: Tensor) -> Tensor:
    return value.detach().float() if value.is_floating_point() else value.detach()
