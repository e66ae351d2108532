"""What an expression of a source can be, as far as TensorRT is concerned."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unknown:
    """Of a type that tells nothing: `Any`, or a name of C++."""

    type: str


@dataclass(frozen=True)
class Member:
    """Something of the bindings: a module, class, method or instance.

    Attributes:
        path: its class or itself, such as `IBuilderConfig.set_flag`; empty for the module.
        role: `module`, `class`, `method`, `unbound` (a method taken from its class), or `instance`.
    """

    path: str
    role: str


@dataclass(frozen=True)
class Derived:
    """A class made by `type(name, (base,), members)`."""

    base: str


@dataclass(frozen=True)
class Many:
    """Several of one kind: a list, or the values of a mapping."""

    item: Any
    mapping: bool = False


@dataclass(frozen=True)
class Row:
    """A tuple of known parts."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Either:
    """One of several kinds."""

    kinds: tuple[Any, ...]


@dataclass(frozen=True)
class Ours:
    """An instance of a class in the source, or (`instance` false) that class."""

    name: str
    instance: bool = True


@dataclass(frozen=True, eq=False)
class Code:
    """A function or lambda of the source, with the variables around it."""

    node: Any
    scope: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Members:
    """A dictionary that is written down with its keys."""

    node: ast.Dict
