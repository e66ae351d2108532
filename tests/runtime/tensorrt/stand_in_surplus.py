"""What the stand-in for TensorRT has that the real bindings lack: with it, a test would pass where TensorRT fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from enum import EnumMeta
from types import SimpleNamespace
from typing import Any

OURS = ("Plain",)
ELSEWHERE = {"Severity": "ILogger"}  # which has its members too
RTX_ALONE = ("IRuntimeConfig", "IRuntimeCache")


def module_surplus(module: Mapping[str, Any], real: dict[str, Any]) -> list[str]:
    """Names of the stand-in for the module, and members of its enums, that the real one has not."""
    problems: list[str] = []
    for name, value in module.items():
        if name not in real["members"]:
            problems.append(f"there is no {name}")
            continue
        members: Mapping[str, Any] = value.__members__ if isinstance(value, EnumMeta) else {}
        members = vars(value) if isinstance(value, SimpleNamespace) else members
        theirs = real["members"][name].get("members", {})
        problems += [f"there is no {name}.{member}" for member in members if member not in theirs]
    return problems


def class_surplus(source: str, real: dict[str, Any], *, rtx: bool) -> list[str]:
    """Public members of the classes in the stand-in's source that the real ones have not, or with other arguments.

    A class bears the name of the real one; `RtxExecutionContext` is what TensorRT-RTX adds to `IExecutionContext`.
    """
    problems: list[str] = []
    for class_ in ast.parse(source).body:
        if not isinstance(class_, ast.ClassDef) or class_.name in OURS:
            continue
        if not rtx and (class_.name.startswith("Rtx") or class_.name in RTX_ALONE):
            continue
        name = f"I{class_.name[3:]}" if class_.name.startswith("Rtx") else class_.name
        problems += _members(class_, ELSEWHERE.get(name, name), real)
    return problems


def _members(class_: ast.ClassDef, name: str, real: dict[str, Any]) -> Iterator[str]:
    theirs = real["members"].get(name, {}).get("members")
    if theirs is None:
        yield f"there is no {name}"
        return
    ours = dict.fromkeys(_public(class_))
    yield from (f"there is no {name}.{member}" for member in ours if member not in theirs)
    for method in class_.body:
        if isinstance(method, ast.FunctionDef) and method.name in ours and method.name in theirs:
            yield from _arguments(f"{name}.{method.name}", method, theirs[method.name]["signatures"])


def _public(class_: ast.ClassDef) -> Iterator[str]:
    """Methods, class variables and what is set on `self`."""
    for node in class_.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        names += [node.name] if isinstance(node, ast.FunctionDef) else []
        names += [
            inner.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _is_self(inner.value)
        ]
        yield from (name for name in names if not name.startswith("_"))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _arguments(path: str, method: ast.FunctionDef, signatures: list[dict[str, Any]]) -> Iterator[str]:
    most = len(method.args.args) - 1
    least = most - len(method.args.defaults)
    counts = [len(signature["parameters"]) for signature in signatures]
    needed = [sum(not optional for _, optional, _ in signature["parameters"]) for signature in signatures]
    if not any(least <= count and low <= most for low, count in zip(needed, counts, strict=True)):
        yield f"{path} takes {' or '.join(map(str, counts))}, not {least} to {most}"
