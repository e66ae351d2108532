"""`Statements`: which statements of a source run with given bindings, and what each name then stands for."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tests.runtime.tensorrt.binding_kinds import Code, Either, Many, Member, Ours, Row, Unknown
from tests.runtime.tensorrt.binding_members import Bindings

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Statements(ABC):
    """Reads statements; what an expression is, a subclass knows.

    Attributes:
        optional: members and classes that the source can do without, and whether these bindings have them.
        attributes: of the source's classes, as their `__init__` sets them.
    """

    def __init__(self, bindings: Bindings) -> None:
        self.bindings = bindings
        self.optional: dict[str, bool] = {}
        self.read: set[ast.AST] = set()  # functions
        self.globals: dict[str, Any] = {}
        self.aliases: set[str] = set()  # annotations that are TensorRT's classes
        self.variables: set[str] = set()  # TypeVars
        self.classes: dict[str, ast.ClassDef] = {}
        self.attributes: dict[str, dict[str, Any]] = {}

    @abstractmethod
    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        """The kind of an expression; None: nothing of TensorRT's."""

    @abstractmethod
    def truth(self, node: ast.expr, scope: dict[str, Any]) -> bool | None:
        """Whether a condition holds in a run with these bindings; None: that is open."""

    @abstractmethod
    def item(self, node: ast.AST, owner: Any) -> Any:
        """What iteration, unpacking or an index gives."""

    @abstractmethod
    def attribute(self, owner: Any, name: str, node: ast.AST, *, set_it: bool = False) -> Any:
        """What an attribute of a kind is."""

    # What the sources declare.

    def declare(self, tree: ast.Module) -> None:
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and name_of(node.annotation) == "TypeAlias":
                self.aliases.add(name_of(node.target))
            elif isinstance(node, ast.Assign) and name_of(getattr(node.value, "func", None)) == "TypeVar":
                self.variables |= {name_of(target) for target in node.targets}
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
                self.globals[node.name] = Ours(node.name, instance=False)
            elif isinstance(node, FUNCTION):
                self.globals[node.name] = Code(node, self.globals)

    def annotated(self, node: ast.expr | None) -> Any:
        """The kind that an annotation names; None: nothing of TensorRT's."""
        if node is None:
            return None
        if isinstance(node, ast.BinOp):
            kinds = tuple(kind for side in (node.left, node.right) if (kind := self.annotated(side)) is not None)
            return kinds[0] if len(kinds) == 1 else Either(kinds) if kinds else None
        if isinstance(node, ast.Subscript):
            last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
            item = self.annotated(last) if name_of(node.value) != "Callable" else None
            return None if item is None else Many(item, mapping=name_of(node.value) in ("dict", "Mapping"))
        name = name_of(node)
        if name in self.aliases:
            there = self.bindings.has("", name)
            self.optional.setdefault(name, there)
            return Member(name, "instance") if there else None
        if name == "Any":
            return Unknown("Any")
        if name == "ModuleType":
            return Member("", "module")
        return Ours(name) if name in self.classes else None

    # Statements.

    def block(self, body: Sequence[ast.stmt], scope: dict[str, Any]) -> bool:
        """Read statements; whether the last one leaves the block for good."""
        functions: list[Code] = []
        ended = False
        for statement in body:
            if isinstance(statement, FUNCTION):
                scope[statement.name] = code = Code(statement, scope)
                functions.append(code)
            elif self.statement(statement, scope):
                ended = True
                break
        for code in functions:
            if code.node not in self.read:
                self.function(code, self.parameters(code.node))
        return ended

    def statement(self, node: ast.stmt, scope: dict[str, Any]) -> bool:
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, FUNCTION):
                    code = Code(method, scope)
                    self.function(code, {**self.parameters(method), **self_of(method, node.name)})
        elif isinstance(node, ast.If):
            return self.branch(node, scope)
        elif isinstance(node, ast.Assign):
            value = self.value(node.value, scope)
            for target in node.targets:
                self.bind(target, value, scope)
        elif isinstance(node, ast.AnnAssign):
            value = self.annotated(node.annotation)
            if node.value is not None:
                self.value(node.value, scope)
            self.bind(node.target, value, scope)
        elif isinstance(node, ast.For):
            self.bind(node.target, self.item(node.iter, self.value(node.iter, scope)), scope)
            self.block([*node.body, *node.orelse], scope)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self.value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self.bind(item.optional_vars, value, scope)
            return self.block(node.body, scope)
        elif isinstance(node, ast.Try):
            self.block(node.body, scope)
            for handler in node.handlers:
                self.block(handler.body, scope)
            self.block([*node.orelse, *node.finalbody], scope)
        elif isinstance(node, ast.While):
            self.value(node.test, scope)
            self.block(node.body, scope)
        elif isinstance(node, ast.Match):
            self.value(node.subject, scope)
            for case in node.cases:
                self.block(case.body, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child, scope)
        return isinstance(node, (ast.Return, ast.Raise, ast.Continue, ast.Break))

    def branch(self, node: ast.If, scope: dict[str, Any]) -> bool:
        truth = self.truth(node.test, scope)
        if truth is None:
            ends = [self.block(part, scope) for part in (node.body, node.orelse)]
            return all(ends) and bool(node.orelse)
        return self.block(node.body if truth else node.orelse, scope)

    def function(self, code: Code, parameters: dict[str, Any]) -> None:
        self.read.add(code.node)
        self.block(code.node.body, {**code.scope, **parameters})

    def parameters(self, node: Any) -> dict[str, Any]:
        return {argument.arg: self.annotated(argument.annotation) for argument in arguments_of(node)}

    def bind(self, target: ast.expr, value: Any, scope: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for index, part in enumerate(target.elts):
                if isinstance(part, ast.Starred):
                    item = self.item(target, value)
                    self.bind(part.value, None if item is None else Many(item), scope)
                else:
                    whole = isinstance(value, Row) and index < len(value.parts)
                    self.bind(part, value.parts[index] if whole else self.item(target, value), scope)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            if isinstance(owner, Ours) and "self" in scope and scope["self"] is owner:
                self.attributes.setdefault(owner.name, {}).setdefault(target.attr, value)
            elif isinstance(owner, (Member, Either, Unknown)):
                self.attribute(owner, target.attr, target, set_it=True)
        elif isinstance(target, ast.Subscript):
            self.value(target.value, scope)
            self.value(target.slice, scope)


def arguments_of(node: Any) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def self_of(node: Any, name: str) -> dict[str, Any]:
    arguments = arguments_of(node)
    decorated = {name_of(decorator) for decorator in node.decorator_list}
    if not arguments or "staticmethod" in decorated:
        return {}
    return {arguments[0].arg: Ours(name, instance="classmethod" not in decorated)}


def name_of(node: Any) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
