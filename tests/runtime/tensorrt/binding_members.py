"""TensorRT's bindings as `describe_bindings.py` writes them down: members, types, and which calls fit a signature."""

from __future__ import annotations

from typing import Any

from tests.runtime.tensorrt.binding_kinds import Many, Member, Unknown

Node = dict[str, Any]  # of describe_bindings.py

PLAIN = ("", "Buffer", "buffer", "bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")


class Bindings:
    """The members of the bindings by their paths, such as `Builder.create_network`."""

    def __init__(self, described: Node) -> None:
        self._described = described

    def node(self, path: str) -> Node:
        """The part of the bindings at a path; empty where there is none."""
        found: Node = self._described
        for name in path.split(".") if path else ():
            found = found.get("members", {}).get(name, {})
        return found

    def has(self, path: str, name: str) -> bool:
        """Whether what is at a path has a member of that name."""
        return name in self.node(path).get("members", {})

    def typed(self, text: str) -> Any:
        """The kind that a type of pybind11's docstrings names."""
        text = text.strip()
        for opening in ("List[", "list[", "Tuple[", "tuple[", "Optional["):
            if text.startswith(opening):
                item = self.typed(text[len(opening) : -1])
                return item if opening == "Optional[" or item is None else Many(item)
        name = next((part.strip() for part in text.split("|") if part.strip() not in ("None", "")), "")
        if self.node(name).get("kind") == "class":
            return Member(name, "instance")
        return None if name.split("[")[0].split(".")[-1] in PLAIN else Unknown(name)


def accepts(parameters: list[list[Any]], positional: int | None, keywords: list[str | None]) -> bool:
    names = [name for name, _, _ in parameters]
    if positional is None or None in keywords:  # *arguments or **arguments: as many as it takes
        return all(keyword in names for keyword in keywords if keyword)
    left = parameters[positional:]
    return (
        positional <= len(parameters)
        and all(keyword in names[positional:] for keyword in keywords)
        and all(optional or name in keywords for name, optional, _ in left)
    )


def spell(signatures: list[dict[str, Any]]) -> str:
    return " or ".join("(" + ", ".join(name for name, _, _ in one["parameters"]) + ")" for one in signatures)
