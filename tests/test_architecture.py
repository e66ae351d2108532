"""What docs/architecture.md says about the code holds: layers, no cycles, no private names of others, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssd_edge", "export", "calib", "runtime")
OURS = ("ssd_edge", "tests", "benchmarks", "tools")
# Loaded when a checkpoint is opened.
TORCH_BACKENDS = {"ssd_edge.runtime.backends.torch", "ssd_edge.runtime.backends.torch_cuda"}
NOT_OF_RUNTIME = ("torch", "torchvision", "onnx", "ssd_edge.export", "ssd_edge.calib", "ssd_edge.models")
LOWEST = "ssd_edge.*"  # modules of `ssd_edge/` that no other row of the table names
LONGEST_FUNCTION, LONGEST_FILE = 60, 400
NO_SECRETS = {"_replace", "_asdict", "_fields", "_obj"}  # of named tuples and of ctypes, which document them
SUFFIXES = {".py", ".cu", ".h", ".c", ".js", ".css", ".html", ".sh"}
REASON, HEAD_LINES = re.compile(r"\bOne file because \w"), 20  # which the head of a longer file has

Imports = dict[str, set[str]]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("ssd_edge", *parts) if parts[0] in FOLDERS[1:] else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """All modules of ssd-edge; not by the links in `ssd_edge/`, which would give them twice."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    real = [file for file in files if not any(parent.is_symlink() for parent in file.parents)]
    return {module_of(file): ast.parse(file.read_text(encoding="utf-8")) for file in real}


def imported_names(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each `import a.b` as (a.b, None), and each `from a.b import c` as (a.b, c), wherever in the file.

    `import_module` of a text counts too; of one such as f"a.{b}", a does.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in vars(node.func).values() and node.args:
            text = re.match(r"f?['\"]([\w.]+)", ast.unparse(node.args[0]))
            if text and text[1].startswith("ssd_edge."):
                yield text[1].rstrip("."), None


def imported_modules(trees: dict[str, ast.Module]) -> Imports:
    """By module, what it imports: modules of these trees, and others by their full name."""
    return {
        module: {
            f"{package}.{name}" if f"{package}.{name}" in trees else package for package, name in imported_names(tree)
        }
        - {module}
        for module, tree in trees.items()
    }


@cache
def imports_of_sources() -> Imports:
    return imported_modules(sources())


def reached_from(module: str, imports: Imports, stop: Set[str] = frozenset()) -> set[str]:
    """What a module imports, and what that imports; not what `stop` imports, nor those modules themselves."""
    found: set[str] = set()
    left = [module]
    while left:
        for name in imports.get(left.pop(), set()) - found - stop:
            found.add(name)
            left.append(name)
    return found


def cycles(imports: Imports) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; each group sorted."""
    reached = {module: reached_from(module, imports) for module in imports}
    groups = {frozenset(other for other in reached[module] if module in reached.get(other, ())) for module in imports}
    return sorted(sorted(group) for group in groups if group)


def test_there_are_no_import_cycles() -> None:
    assert cycles(imports_of_sources()) == []


def test_no_folder_imports_one_that_imports_it() -> None:
    """Of `runtime/`, `export/`, `calib/` and the folders of `ssd_edge/`: their folders and modules."""
    folders: Imports = {}
    for module, names in imports_of_sources().items():
        folder, others = (".".join(module.split(".")[:3]), {".".join(name.split(".")[:3]) for name in names})
        folders.setdefault(folder, set()).update(others - {folder})
    assert cycles(folders) == []


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c", "x"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("module", [module for module in sources() if module.startswith("ssd_edge.runtime")])
def test_the_runtime_needs_neither_torch_nor_the_exporter(module: str) -> None:
    """Neither does what it imports."""
    if module not in TORCH_BACKENDS:
        reached = reached_from(module, imports_of_sources(), stop=TORCH_BACKENDS)
        assert [name for name in reached if f"{name}.".startswith(tuple(f"{no}." for no in NOT_OF_RUNTIME))] == []


def test_packages_import_nothing() -> None:
    """Only `ssd_edge` does: what it offers is loaded when it is asked for (`test_dependencies.py`)."""
    packages = {module_of(file) for folder in FOLDERS for file in (ROOT / folder).rglob("__init__.py")}
    imports = {package: imports_of_sources()[package] for package in packages & sources().keys() - {"ssd_edge"}}
    assert len(imports) > 20
    assert {package: names for package, names in imports.items() if names} == {}


@cache
def layers() -> list[str]:
    """The layers of docs/architecture.md as prefixes of modules, the lowest one first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| layer | job |")[2].partition("\n\n")[0]
    paths = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    names = [path.removesuffix(".py").rstrip("/").replace("/", ".") for path in paths]
    return [name if name.startswith("ssd_edge") else f"ssd_edge.{name}" for name in names]


def layer_of(module: str) -> int:
    """The layer with the longest prefix, else the lowest."""
    fitting = [i for i, name in enumerate(layers()) if f"{module}.".startswith(f"{name}.")]
    return max(fitting, default=0)


def upward_imports(imports: Imports) -> list[str]:
    entries = ("ssd_edge", "ssd_edge.__main__")  # name what the package offers, and the command line
    return sorted(
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if name.startswith("ssd_edge.") and layer_of(name) > layer_of(module) and module not in entries
    )


def test_the_table_of_layers_names_every_folder() -> None:
    assert layers()[0] == LOWEST
    assert set(layers()[1:]) <= sources().keys(), "no such module"
    folders = {module for module in sources() if module.count(".") == 1 and any(is_in(m, module) for m in sources())}
    assert folders <= set(layers())


def is_in(module: str, package: str) -> bool:
    return module.startswith(f"{package}.")


def test_no_layer_imports_one_below_it_in_the_table() -> None:
    assert upward_imports(imports_of_sources()) == []


def test_an_upward_import_is_found() -> None:
    imports = {"ssd_edge.models.ssd": {"ssd_edge.data.lint", "torch"}, "ssd_edge.data.lint": {"ssd_edge.models.ssd"}}
    assert upward_imports(imports) == ["ssd_edge.models.ssd imports ssd_edge.data.lint"]


@cache
def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode:
        pytest.skip("no git checkout")
    files = [ROOT / name for name in listed.stdout.split()]
    return [file for file in files if file.is_file() and file.suffix in SUFFIXES]


def private_uses(tree: ast.Module) -> list[str]:
    """Private names of our other files that a file imports, or reads or sets as attributes of anything of theirs.

    An attribute is a file's own where the file defines it, in whatever class.
    """
    names, attributes = list(imported_names(tree)), []
    found = [f"{module}.{name}" for module, name in names if name and is_private(name) and is_ours(module)]
    own, foreign = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Import):
            foreign |= {a.asname or a.name.partition(".")[0] for a in node.names if not is_ours(a.name)}
        elif isinstance(node, ast.ImportFrom) and not is_ours(node.module or ""):
            foreign |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root = root_of(node)
            if root in ("self", "cls", "super()") and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            attributes.append((root, node))
    return found + [
        ast.unparse(node)
        for root, node in attributes
        if node.attr not in own | NO_SECRETS and root not in foreign and root not in ("self", "cls", "super()")
    ]


def root_of(node: ast.expr) -> str:
    """`a` of `a.b.c`; of other expressions their text."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ast.unparse(node)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def test_no_file_uses_private_names_of_another() -> None:
    files = [file for file in tracked_files() if file.suffix == ".py"]
    uses = {str(file.relative_to(ROOT)): private_uses(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    assert len(uses) > 500
    assert {file: names for file, names in uses.items() if names} == {}


def test_private_names_are_found() -> None:
    code = (
        "import os, ssd_edge.a as a\nfrom ssd_edge.a import _b, c, D\na._f()\nc._d()\nD._e\nos._exit(0)\nx.y._g = 1\n"
        "class E:\n  def _h(self): self._i = self._j\ndef f(e): e._h(e._i)\n__name__"
    )
    assert sorted(private_uses(ast.parse(code))) == ["D._e", "a._f", "c._d", "ssd_edge.a._b", "x.y._g"]


def functions(tree: ast.Module) -> list[tuple[str, int]]:
    """Names and lines of all functions."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]


def has_reason(text: str) -> bool:
    """Whether the head of a file says why it is long."""
    words = re.sub(r"[\s*/#]+", " ", "\n".join(text.splitlines()[:HEAD_LINES]))
    return REASON.search(words) is not None


def test_functions_fit_on_a_screen_and_files_have_a_reason_to_be_long() -> None:
    long = []
    for path in tracked_files():
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if path.suffix == ".py":
            long += [f"{name}: {function}" for function, n in functions(ast.parse(text)) if n > LONGEST_FUNCTION]
        long += [name] * (len(text.splitlines()) > LONGEST_FILE and not has_reason(text))
    assert long == []


def test_a_reason_is_a_sentence_at_the_head() -> None:
    assert has_reason("// Kernels.\n//\n// One file\n// because NVRTC compiles one.")
    assert not has_reason("Holds one file each, such as pictures.")
    assert not has_reason("\n" * HEAD_LINES + "One file because it is late.")
