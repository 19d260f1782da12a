"""Imports point down and never in a circle, and some libraries are known to some packages only.

Imports inside functions, under TYPE_CHECKING and by a module's name as a string (importlib, __import__) count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import phenaki

ROOT = Path(phenaki.__file__).parent
# From the ground up: a package imports from the layers below its own and from itself.
LAYERS = (
    {"core"},
    {"nn"},
    {"media"},
    {"perceptual"},
    {"tokenizers", "conditioning"},
    {"data", "worlds"},
    {"generators"},
    {"compat"},
    {"sampling"},
    {"pipeline"},
    {"evaluation"},
    {"training"},
    {"play"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {package: height for height, packages in enumerate(LAYERS) for package in sorted(packages)}
ONLY_IN = {
    "phenaki.compat": {"compat", "pipeline", "cli"},  # pipeline registers its components, cli imports checkpoints
    "phenaki.worlds": {"worlds", "training", "cli"},  # training registers "shapes", evaluation receives a world
    "torch.distributed": {"training", "data"},
    "torch.utils.data": {"training", "data"},
    "torch.utils.tensorboard": {"training"},
    "torch.optim": {"training"},
    "typer": {"cli"},
    "fastapi": {"play", "cli"},
    "starlette": {"play"},
    "uvicorn": {"play", "cli"},
    "av": {"media"},
    "huggingface_hub": {"core"},
    "transformers": {"conditioning"},
}
DYNAMIC = {"import_module", "__import__", "find_spec", "resolve_name", "run_module"}
MAX_LINES = 400  # of a file that does not say why it has more


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, where: str = "") -> Iterator[str]:
    """Full names of what a file imports, and of the modules that its strings name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, f"{where}: relative import"
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Constant(value=str(text)) if text in modules() and text != "phenaki":
                yield text
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[argument, *_]) if name in DYNAMIC:
                assert isinstance(argument, ast.Constant), f"{where}: {name} of a name that no reader can know"
                yield str(argument.value)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports() -> dict[str, list[str]]:
    return {name: list(imported_names(path.read_text(encoding="utf-8"), name)) for name, path in modules().items()}


def package_of(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The module that an imported name is or lies in; none for another library's."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


@cache
def graph() -> dict[str, set[str]]:
    """Each module with those of phenaki that it imports."""
    known = modules()
    return {name: {module_of(target, known) for target in imports()[name]} - {None, name} for name in known}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another (strongly connected components of more than one)."""
    reached = {}
    for start in graph:
        reached[start], todo = set(), [start]
        while todo:
            for target in graph.get(todo.pop(), set()) - reached[start]:
                reached[start].add(target)
                todo.append(target)
    groups = {frozenset({a} | {b for b in reached[a] if a in reached.get(b, ())}) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def test_every_package_has_its_layer() -> None:
    assert {package_of(name) for name in modules()} - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize("package", list(HEIGHT))
def test_imports_point_down(package: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets
        if package_of(name) == package != package_of(target)
        and HEIGHT.get(package_of(target), len(LAYERS)) >= HEIGHT[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(graph()) == []


def test_no_package_imports_itself_through_others() -> None:
    packages: dict[str, set[str]] = {package_of(name): set() for name in graph()}
    for name, targets in graph().items():
        packages[package_of(name)] |= {package_of(target) for target in targets} - {package_of(name)}
    assert cycles(packages) == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_some_packages_alone_know_a_library(library: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if (target == library or target.startswith(library + ".")) and package_of(name) not in ONLY_IN[library]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import phenaki.cli.app",
        "from phenaki.cli import app",
        "def f():\n    from phenaki.cli.app import main",
        "if TYPE_CHECKING:\n    from phenaki.cli.app import main",
        "import_module('phenaki.cli.app')",
        "importlib.import_module('phenaki.cli.app')",
        "__import__('phenaki.cli.app')",
        "TABLE = {'name': 'phenaki.cli.app'}",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    (name,) = set(imported_names(source))
    assert module_of(name, modules()) == "phenaki.cli.app"


def test_a_computed_import_is_refused() -> None:
    with pytest.raises(AssertionError, match="no reader can know"):
        list(imported_names("import_module(f'phenaki.{name}')"))


def test_cycles_are_found() -> None:
    links = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"e", "a"}, "e": {"f"}, "f": {"d"}, "g": {"a"}}
    assert cycles(links) == [["b", "c"], ["d", "e", "f"]]


def test_long_files_say_why() -> None:
    """Their docstring has a sentence with the words "one file"."""
    long = {}
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        docstring = " ".join((ast.get_docstring(ast.parse(source)) or "").lower().split())
        if len(source.splitlines()) > MAX_LINES and "one file" not in docstring:
            long[name] = len(source.splitlines())
    assert not long


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, phenaki, phenaki.cli; print(*(m for m in ('torch', 'numpy', 'av', 'PIL') if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
