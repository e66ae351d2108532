"""What a program asks of TensorRT's Python bindings, read from its source and checked against them.

`check_uses` follows TensorRT's objects through the source: from the module (`api: ModuleType`) and from annotations
with one of TensorRT's classes (`Builder: TypeAlias = Any` in the source says which these are), by what the bindings say
that a call returns. Each member has to be there, each call has to fit a signature, each property that is set has to be
settable, and each class that is derived may only override what the base has.

What a source treats as optional (`hasattr(x, "NAME")`, `getattr(x, "NAME", default)`, `trt.flavour == "rtx"`) is
decided as in a run with these bindings: the branch that would not run is not read. An attribute of something annotated
`Any`, or of something that a call returns whose class pybind11 does not name, is an error, so that nothing is left out
in silence.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.runtime.tensorrt.binding_kinds import Code, Derived, Either, Many, Member, Members, Ours, Row, Unknown
from tests.runtime.tensorrt.binding_members import Bindings, Node, accepts, spell
from tests.runtime.tensorrt.binding_statements import FUNCTION, Statements, arguments_of, name_of, self_of

PASS_THROUGH = ("iter", "list", "reversed", "sorted", "tuple")
FROM_MAPPING = ("get", "pop", "setdefault")


@dataclass
class Uses:
    """What was found.

    Attributes:
        problems: `file:line: what is wrong`, none where the source and the bindings fit together.
        used: members that the source needs, such as `Builder.create_network`.
        optional: members that it can do without, and whether these bindings have them.
    """

    problems: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    optional: dict[str, bool] = field(default_factory=dict)


def check_uses(sources: Mapping[str, str], bindings: Node, flavour: str) -> Uses:
    """Check sources, by file name, against bindings that `describe_bindings.py` wrote down.

    Args:
        flavour: what `trt.flavour` is in a run with these bindings.
    """
    checker = _Checker(Bindings(bindings), flavour)
    trees = {name: ast.parse(text) for name, text in sources.items()}
    for name, tree in trees.items():
        checker.declare(tree)
        checker.files |= dict.fromkeys(ast.walk(tree), name)
    for tree in trees.values():
        checker.block(tree.body, dict(checker.globals))
    uses = checker.uses
    uses.problems = list(dict.fromkeys(uses.problems))
    return uses


class _Checker(Statements):
    """Knows what expressions are, and notes what does not fit the bindings."""

    def __init__(self, bindings: Bindings, flavour: str) -> None:
        super().__init__(bindings)
        self.flavour = flavour
        self.uses = Uses(optional=self.optional)
        self.files: dict[ast.AST, str] = {}

    # Conditions that the bindings decide.

    def truth(self, node: ast.expr, scope: dict[str, Any]) -> bool | None:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            truth = self.truth(node.operand, scope)
            return None if truth is None else not truth
        if isinstance(node, ast.BoolOp):
            decides = isinstance(node.op, ast.Or)  # this value ends it
            truths = []
            for part in node.values:
                truths.append(self.truth(part, scope))
                if truths[-1] is decides:
                    return decides
            return None if None in truths else not decides
        if isinstance(node, ast.Call) and name_of(node.func) == "hasattr":
            return self.has(self.value(node.args[0], scope), node.args[1])
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "flavour":
            other = node.comparators[0]
            if isinstance(other, ast.Constant) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                return (other.value == self.flavour) == isinstance(node.ops[0], ast.Eq)
        self.value(node, scope)
        return None

    def has(self, owner: Any, name: ast.expr) -> bool | None:
        if not isinstance(owner, Member) or not isinstance(name, ast.Constant):
            return None
        path = _join(owner.path, str(name.value))
        there = self.bindings.has(owner.path, str(name.value))
        self.uses.optional[path] = there
        return there

    # Expressions.

    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(self.value(node.value, scope), node.attr, node)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, ast.Lambda):
            self.value(node.body, {**scope, **dict.fromkeys(argument.arg for argument in arguments_of(node))})
            return Code(node, scope)
        if isinstance(node, ast.Dict):
            self.children(node, scope)
            return Members(node)
        if isinstance(node, ast.NamedExpr):
            value = self.value(node.value, scope)
            self.bind(node.target, value, scope)
            return value
        if isinstance(node, ast.IfExp):
            truth = self.truth(node.test, scope)
            kinds = [self.value(part, scope) for part in ((node.body, node.orelse) if truth is None else ())]
            if truth is not None:
                return self.value(node.body if truth else node.orelse, scope)
            return next((kind for kind in kinds if kind is not None), None)
        if isinstance(node, ast.BoolOp):
            self.truth(node, scope)
            return None
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            item = self.value(node.elt, self.inner_scope(node.generators, scope))
            return None if item is None else Many(item)
        if isinstance(node, ast.DictComp):
            inner = self.inner_scope(node.generators, scope)
            self.value(node.key, inner)
            item = self.value(node.value, inner)
            return None if item is None else Many(item, mapping=True)
        if isinstance(node, ast.Subscript):
            owner = self.value(node.value, scope)
            self.value(node.slice, scope)
            return owner if isinstance(node.slice, ast.Slice) else self.item(node, owner)
        if isinstance(node, (ast.List, ast.Tuple)):
            return self.display(node, scope)
        return self.children(node, scope)

    def children(self, node: ast.AST, scope: dict[str, Any]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, scope)
            elif isinstance(child, (ast.keyword, ast.FormattedValue)):
                self.children(child, scope)

    def inner_scope(self, generators: Sequence[ast.comprehension], scope: dict[str, Any]) -> dict[str, Any]:
        inner = dict(scope)
        for generator in generators:
            self.bind(generator.target, self.item(generator.iter, self.value(generator.iter, inner)), inner)
            for test in generator.ifs:
                self.value(test, inner)
        return inner

    def display(self, node: ast.List | ast.Tuple, scope: dict[str, Any]) -> Any:
        parts = [
            self.item(part, self.value(part.value, scope)) if isinstance(part, ast.Starred) else self.value(part, scope)
            for part in node.elts
        ]
        if isinstance(node, ast.Tuple):
            return Row(tuple(parts))
        return next((Many(part) for part in parts if part is not None), None)

    def item(self, node: ast.AST, owner: Any) -> Any:
        if isinstance(owner, Many):
            return owner.item
        if isinstance(owner, Row):
            return next((part for part in owner.parts if part is not None), None)
        if isinstance(owner, Member) and owner.role == "instance":
            has = self.bindings.node(owner.path).get("members", {})
            if "__getitem__" not in has and "__iter__" not in has:
                self.problem(node, f"{owner.path} is no sequence")
        return None

    def attribute(self, owner: Any, name: str, node: ast.AST, *, set_it: bool = False) -> Any:
        if isinstance(owner, Unknown):
            self.problem(node, f"{owner.type} may have .{name} or not: annotate it with one of TensorRT's classes")
        if isinstance(owner, Either):
            fitting = [kind for kind in owner.kinds if isinstance(kind, Member) and self.bindings.has(kind.path, name)]
            return self.attribute(fitting[0] if fitting else owner.kinds[0], name, node, set_it=set_it)
        if isinstance(owner, Ours):
            return self.our_attribute(owner, name)
        if isinstance(owner, Many) and name in ("values", "items", *FROM_MAPPING):
            return (owner, name)
        return self.member(owner, name, node, set_it) if isinstance(owner, Member) else None

    def member(self, owner: Member, name: str, node: ast.AST, set_it: bool) -> Any:
        path = _join(owner.path, name)
        if owner.role in ("method", "unbound") or not self.bindings.has(owner.path, name):
            self.problem(node, f"there is no {path}")
            return None
        self.uses.used.add(path)
        found = self.bindings.node(path)
        if set_it and not (owner.role == "instance" and found.get("settable")):
            self.problem(node, f"{path} cannot be set")
        if found["kind"] == "method":
            return Member(path, "unbound" if owner.role == "class" else "method")
        if found["kind"] == "class":
            return Member(path, "class")
        return self.bindings.typed(found["type"])

    def our_attribute(self, owner: Ours, name: str) -> Any:
        class_ = self.classes[owner.name]
        for node in class_.body:
            if isinstance(node, ast.AnnAssign) and name_of(node.target) == name:
                return self.annotated(node.annotation)
            if isinstance(node, FUNCTION) and node.name == name:
                if any(name_of(decorator) == "property" for decorator in node.decorator_list):
                    return self.annotated(node.returns)
                return Code(node, self.globals)
        if owner.name not in self.attributes:
            self.attributes[owner.name] = {}
            for node in class_.body:
                if isinstance(node, FUNCTION) and node.name == "__init__":
                    self.function(Code(node, self.globals), {**self.parameters(node), **self_of(node, owner.name)})
        return self.attributes[owner.name].get(name)

    # Calls.

    def call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        name = name_of(node.func)
        if name == "getattr" and name not in scope:
            return self.get_attribute(node, scope)
        if name == "type" and len(node.args) == 3:
            return self.derive(node, scope)
        function = self.value(node.func, scope)
        given = [self.value(argument, scope) for argument in node.args]
        for keyword in node.keywords:
            self.value(keyword.value, scope)
        if isinstance(function, Member):
            positional = None if any(isinstance(argument, ast.Starred) for argument in node.args) else len(node.args)
            return self.fits(function, node, positional, [keyword.arg for keyword in node.keywords])
        if isinstance(function, Derived):
            return Member(function.base, "instance")
        if isinstance(function, Ours):
            return Ours(function.name)
        if isinstance(function, Code):
            return self.result(function, given)
        if isinstance(function, tuple):  # of a mapping
            return self.from_mapping(*function)
        return self.foreign(node, given)

    def foreign(self, node: ast.Call, given: list[Any]) -> Any:
        """A call of something else, which may call a method that it is given, with the arguments behind it."""
        for index, kind in enumerate(given):
            if isinstance(kind, Member) and kind.role in ("method", "class"):
                return self.fits(kind, node, len(given) - index - 1, [])
        name = name_of(node.func)
        first = given[0] if given else None
        if name == "enumerate":
            return Many(Row((None, self.item(node, first))))
        if name in PASS_THROUGH:
            self.item(node, first)
            return first if isinstance(first, Many) else None
        return None

    def from_mapping(self, owner: Many, name: str) -> Any:
        if name == "values":
            return Many(owner.item)
        return Many(Row((None, owner.item))) if name == "items" else owner.item

    def result(self, function: Code, given: list[Any]) -> Any:
        node = function.node
        if isinstance(node, ast.Lambda):
            parameters = dict(zip((argument.arg for argument in arguments_of(node)), given, strict=False))
            return self.value(node.body, {**function.scope, **parameters})
        if name_of(node.returns) in self.variables:  # what the function that it is given returns
            return next((self.result(kind, []) for kind in given if isinstance(kind, Code)), None)
        for kind in given:
            if isinstance(kind, Code) and isinstance(kind.node, ast.Lambda):
                self.result(kind, [])
        return self.annotated(node.returns)

    def get_attribute(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        owner = self.value(node.args[0], scope)
        name = node.args[1]
        if not isinstance(name, ast.Constant):
            return None
        if len(node.args) < 3 or self.has(owner, name):
            return self.attribute(owner, str(name.value), node)
        return self.value(node.args[2], scope)

    def derive(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        """`type(name, (base,), members)`: check and read what is overridden, with the arguments that TensorRT gives."""
        bases = self.value(node.args[1], scope)
        base = bases.parts[0] if isinstance(bases, Row) and bases.parts else None
        members = self.value(node.args[2], scope)
        if not isinstance(base, Member) or base.role != "class" or not isinstance(members, Members):
            self.problem(node, "a class is derived from something whose members are not known")
            return None
        for key, value in zip(members.node.keys, members.node.values, strict=True):
            self.override(base, str(getattr(key, "value", "")), self.value(value, scope), node)
        return Derived(base.path)

    def override(self, base: Member, name: str, code: Any, node: ast.AST) -> None:
        if not self.bindings.has(base.path, name):
            self.problem(node, f"there is no {base.path}.{name} to override")
            return
        self.uses.used.add(f"{base.path}.{name}")
        own = arguments_of(code.node)[1:]
        signatures = self.bindings.node(f"{base.path}.{name}")["signatures"]
        given = next((one["parameters"] for one in signatures if len(one["parameters"]) == len(own)), None)
        if given is None:
            self.problem(
                node, f"{base.path}.{name} takes {spell(signatures)}, and is overridden with {len(own)} arguments"
            )
            return
        kinds = [self.bindings.typed(type_) for _, _, type_ in given]
        if isinstance(code.node, ast.Lambda):
            self.result(code, [None, *kinds])
        else:
            self.function(code, dict(zip((argument.arg for argument in own), kinds, strict=True)))

    def fits(self, function: Member, node: ast.AST, positional: int | None, keywords: list[str | None]) -> Any:
        """Check a call; what it returns."""
        path = function.path if function.role != "class" else f"{function.path}.__init__"
        signatures = (
            self.bindings.node(path).get("signatures") if function.role in ("class", "method", "unbound") else None
        )
        if not signatures:
            self.problem(node, f"{function.path or 'the module'} cannot be called")
            return None
        if positional is not None and function.role == "unbound":
            positional -= 1  # self
        for signature in signatures:
            if accepts(signature["parameters"], positional, keywords):
                break
        else:
            given = ", ".join([f"{positional} positional", *(f"{keyword}=" for keyword in keywords)])
            self.problem(node, f"{path} does not take these arguments: {given}; it takes {spell(signatures)}")
            return None
        return (
            Member(function.path, "instance") if function.role == "class" else self.bindings.typed(signature["returns"])
        )

    def problem(self, node: ast.AST, text: str) -> None:
        self.uses.problems.append(f"{self.files[node]}:{getattr(node, 'lineno', 0)}: {text}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
