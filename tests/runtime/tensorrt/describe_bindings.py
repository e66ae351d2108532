"""Run in a separate process: import a module of pybind11 and print what is in it, as JSON.

    python describe_bindings.py tensorrt_bindings

A class is {"kind": "class", "members"}, a method or function {"kind": "method", "signatures"}, a property {"kind":
"property", "type", "settable"}, any other value {"kind": "value", "type"}. Signatures come from pybind11's docstrings:
each is {"parameters": [[name, has a default, type], …], "returns"}, without `self`. Types are as pybind11 writes them,
but without the name of the module.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

SPECIAL = ("__init__", "__getitem__", "__iter__", "__len__", "__members__", "__version__")


def describe(thing: Any) -> dict[str, Any]:
    """One member, with those of its own where it is a class."""
    if inspect.isclass(thing):
        return {"kind": "class", "members": members(thing)}
    if isinstance(thing, property):
        getter = f"get{getattr(thing.fget, '__doc__', None) or '()'}"
        returns = [signature["returns"] for signature in signatures("get", getter)]
        return {"kind": "property", "type": returns[0] if returns else "", "settable": thing.fset is not None}
    if callable(thing):
        name = getattr(thing, "__name__", "")
        return {"kind": "method", "signatures": signatures(name, getattr(thing, "__doc__", None) or "")}
    return {"kind": "value", "type": plain(f"{type(thing).__module__}.{type(thing).__qualname__}")}


def members(owner: Any) -> dict[str, Any]:
    """The public members of a module or class, inherited ones too."""
    names = [name for name in dir(owner) if not name.startswith("_") or name in SPECIAL]
    return {name: describe(inspect.getattr_static(owner, name, None) or getattr(owner, name)) for name in names}


def signatures(name: str, text: str) -> list[dict[str, Any]]:
    """Those of a docstring: `name(self: T, x: int = 0) -> U`; several lines where it is overloaded."""
    found = []
    for match in re.finditer(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> ([^\n]+)$", text, re.MULTILINE):
        parameters = [parameter(part) for part in split(match[1])]
        bound = parameters and parameters[0][0] in ("self", "arg0" if name == "get" else "self")
        found.append({"parameters": parameters[1:] if bound else parameters, "returns": plain(match[2].strip())})
    return found


def split(text: str) -> list[str]:
    """At the commas that are not within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def parameter(text: str) -> tuple[str, bool, str]:
    """Name, whether it has a default, and type."""
    declared, default, _ = text.partition("=")
    name, _, type_ = declared.partition(":")
    return name.strip(), bool(default), plain(type_.strip())


def plain(type_: str) -> str:
    """A type without the name of the module that it is in."""
    return re.sub(r"\b[\w.]+\.tensorrt(?:_\w+)?\.", "", type_)


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    print(json.dumps({"kind": "module", "members": members(module), "version": module.__version__}))
