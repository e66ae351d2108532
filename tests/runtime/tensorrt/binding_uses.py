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

Node = dict[str, Any]  # of describe_bindings.py

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
PASS_THROUGH = ("iter", "list", "reversed", "sorted", "tuple")
PLAIN = ("", "Buffer", "buffer", "bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")
FROM_MAPPING = ("get", "pop", "setdefault")


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
    checker = _Checker(bindings, flavour)
    trees = {name: ast.parse(text) for name, text in sources.items()}
    for name, tree in trees.items():
        checker.declare(tree)
        checker.files |= dict.fromkeys(ast.walk(tree), name)
    for tree in trees.values():
        checker.block(tree.body, dict(checker.globals))
    uses = checker.uses
    uses.problems = list(dict.fromkeys(uses.problems))
    return uses


class _Checker:
    def __init__(self, bindings: Node, flavour: str) -> None:
        self.bindings = bindings
        self.flavour = flavour
        self.uses = Uses()
        self.files: dict[ast.AST, str] = {}
        self.read: set[ast.AST] = set()  # functions
        self.globals: dict[str, Any] = {}
        self.aliases: set[str] = set()  # annotations that are TensorRT's classes
        self.variables: set[str] = set()  # TypeVars
        self.classes: dict[str, ast.ClassDef] = {}
        self.attributes: dict[str, dict[str, Any]] = {}  # of our classes, as their __init__ sets them

    # What the sources declare.

    def declare(self, tree: ast.Module) -> None:
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and _name(node.annotation) == "TypeAlias":
                self.aliases.add(_name(node.target))
            elif isinstance(node, ast.Assign) and _name(getattr(node.value, "func", None)) == "TypeVar":
                self.variables |= {_name(target) for target in node.targets}
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
            item = self.annotated(last) if _name(node.value) != "Callable" else None
            return None if item is None else Many(item, mapping=_name(node.value) in ("dict", "Mapping"))
        name = _name(node)
        if name in self.aliases:
            there = name in self.bindings["members"]
            self.uses.optional.setdefault(name, there)
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
                    self.function(code, {**self.parameters(method), **_self_of(method, node.name)})
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
        return {argument.arg: self.annotated(argument.annotation) for argument in _arguments(node)}

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

    # Conditions that the bindings decide.

    def truth(self, node: ast.expr, scope: dict[str, Any]) -> bool | None:
        """Whether a condition holds in a run with these bindings; None: that is open."""
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
        if isinstance(node, ast.Call) and _name(node.func) == "hasattr":
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
        there = str(name.value) in self.node(owner.path).get("members", {})
        self.uses.optional[path] = there
        return there

    # Expressions.

    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        """The kind of an expression; None: nothing of TensorRT's."""
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(self.value(node.value, scope), node.attr, node)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, ast.Lambda):
            self.value(node.body, {**scope, **dict.fromkeys(argument.arg for argument in _arguments(node))})
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
        """What iteration, unpacking or an index gives."""
        if isinstance(owner, Many):
            return owner.item
        if isinstance(owner, Row):
            return next((part for part in owner.parts if part is not None), None)
        if isinstance(owner, Member) and owner.role == "instance":
            has = self.node(owner.path).get("members", {})
            if "__getitem__" not in has and "__iter__" not in has:
                self.problem(node, f"{owner.path} is no sequence")
        return None

    def attribute(self, owner: Any, name: str, node: ast.AST, *, set_it: bool = False) -> Any:
        if isinstance(owner, Unknown):
            self.problem(node, f"{owner.type} may have .{name} or not: annotate it with one of TensorRT's classes")
        if isinstance(owner, Either):
            fitting = [kind for kind in owner.kinds if isinstance(kind, Member) and self.has_member(kind, name)]
            return self.attribute(fitting[0] if fitting else owner.kinds[0], name, node, set_it=set_it)
        if isinstance(owner, Ours):
            return self.our_attribute(owner, name)
        if isinstance(owner, Many) and name in ("values", "items", *FROM_MAPPING):
            return (owner, name)
        return self.member(owner, name, node, set_it) if isinstance(owner, Member) else None

    def has_member(self, owner: Member, name: str) -> bool:
        return name in self.node(owner.path).get("members", {})

    def member(self, owner: Member, name: str, node: ast.AST, set_it: bool) -> Any:
        path = _join(owner.path, name)
        if owner.role in ("method", "unbound") or not self.has_member(owner, name):
            self.problem(node, f"there is no {path}")
            return None
        self.uses.used.add(path)
        found = self.node(path)
        if set_it and not (owner.role == "instance" and found.get("settable")):
            self.problem(node, f"{path} cannot be set")
        if found["kind"] == "method":
            return Member(path, "unbound" if owner.role == "class" else "method")
        if found["kind"] == "class":
            return Member(path, "class")
        return self.typed(found["type"])

    def our_attribute(self, owner: Ours, name: str) -> Any:
        class_ = self.classes[owner.name]
        for node in class_.body:
            if isinstance(node, ast.AnnAssign) and _name(node.target) == name:
                return self.annotated(node.annotation)
            if isinstance(node, FUNCTION) and node.name == name:
                if any(_name(decorator) == "property" for decorator in node.decorator_list):
                    return self.annotated(node.returns)
                return Code(node, self.globals)
        if owner.name not in self.attributes:
            self.attributes[owner.name] = {}
            for node in class_.body:
                if isinstance(node, FUNCTION) and node.name == "__init__":
                    self.function(Code(node, self.globals), {**self.parameters(node), **_self_of(node, owner.name)})
        return self.attributes[owner.name].get(name)

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

    # Calls.

    def call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        name = _name(node.func)
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
        name = _name(node.func)
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
            parameters = dict(zip((argument.arg for argument in _arguments(node)), given, strict=False))
            return self.value(node.body, {**function.scope, **parameters})
        if _name(node.returns) in self.variables:  # what the function that it is given returns
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
        if not self.has_member(base, name):
            self.problem(node, f"there is no {base.path}.{name} to override")
            return
        self.uses.used.add(f"{base.path}.{name}")
        own = _arguments(code.node)[1:]
        signatures = self.node(f"{base.path}.{name}")["signatures"]
        given = next((one["parameters"] for one in signatures if len(one["parameters"]) == len(own)), None)
        if given is None:
            self.problem(
                node, f"{base.path}.{name} takes {_spell(signatures)}, and is overridden with {len(own)} arguments"
            )
            return
        kinds = [self.typed(type_) for _, _, type_ in given]
        if isinstance(code.node, ast.Lambda):
            self.result(code, [None, *kinds])
        else:
            self.function(code, dict(zip((argument.arg for argument in own), kinds, strict=True)))

    def fits(self, function: Member, node: ast.AST, positional: int | None, keywords: list[str | None]) -> Any:
        """Check a call; what it returns."""
        path = function.path if function.role != "class" else f"{function.path}.__init__"
        signatures = self.node(path).get("signatures") if function.role in ("class", "method", "unbound") else None
        if not signatures:
            self.problem(node, f"{function.path or 'the module'} cannot be called")
            return None
        if positional is not None and function.role == "unbound":
            positional -= 1  # self
        for signature in signatures:
            if _accepts(signature["parameters"], positional, keywords):
                break
        else:
            given = ", ".join([f"{positional} positional", *(f"{keyword}=" for keyword in keywords)])
            self.problem(node, f"{path} does not take these arguments: {given}; it takes {_spell(signatures)}")
            return None
        return Member(function.path, "instance") if function.role == "class" else self.typed(signature["returns"])

    def node(self, path: str) -> Node:
        """The part of the bindings at a path; empty where there is none."""
        found: Node = self.bindings
        for name in path.split(".") if path else ():
            found = found.get("members", {}).get(name, {})
        return found

    def problem(self, node: ast.AST, text: str) -> None:
        self.uses.problems.append(f"{self.files[node]}:{getattr(node, 'lineno', 0)}: {text}")


def _accepts(parameters: list[list[Any]], positional: int | None, keywords: list[str | None]) -> bool:
    names = [name for name, _, _ in parameters]
    if positional is None or None in keywords:  # *arguments or **arguments: as many as it takes
        return all(keyword in names for keyword in keywords if keyword)
    left = parameters[positional:]
    return (
        positional <= len(parameters)
        and all(keyword in names[positional:] for keyword in keywords)
        and all(optional or name in keywords for name, optional, _ in left)
    )


def _spell(signatures: list[dict[str, Any]]) -> str:
    return " or ".join("(" + ", ".join(name for name, _, _ in one["parameters"]) + ")" for one in signatures)


def _arguments(node: Any) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _self_of(node: Any, name: str) -> dict[str, Any]:
    arguments = _arguments(node)
    decorated = {_name(decorator) for decorator in node.decorator_list}
    if not arguments or "staticmethod" in decorated:
        return {}
    return {arguments[0].arg: Ours(name, instance="classmethod" not in decorated)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name(node: Any) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
