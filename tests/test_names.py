"""Names in src/ are the field's words: none is on the list of tests/forbidden_names.txt.

`python tests/test_names.py [PATH ...]` prints the names that are, file by file, with the word to use.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # of snake_case and of CamelCase


def read_forbidden() -> dict[tuple[str, ...], str]:
    """Parts of a forbidden name to the field's word."""
    lines = (PROJECT / "tests" / "forbidden_names.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return {tuple(name.split("_")): word for name, word in pairs}


FORBIDDEN = read_forbidden()


def advice(name: str) -> str | None:
    """The field's word for the first forbidden part of a name."""
    parts = tuple(part.lower() for part in PARTS.findall(name))
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            if parts[start:end] in FORBIDDEN:
                return FORBIDDEN[parts[start:end]]
    return None


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of all that a file defines: classes, functions, arguments, variables, attributes, aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node.lineno, name


def violations(paths: list[Path]) -> Iterator[str]:
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    for file in files:
        found: dict[str, list[int]] = {}
        for line, name in [(1, file.stem), *defined_names(ast.parse(file.read_text(encoding="utf-8")))]:
            if advice(name):
                found.setdefault(name, []).append(line)
        where = file.resolve()
        where = where.relative_to(PROJECT) if where.is_relative_to(PROJECT) else where
        for name, lines in found.items():
            yield f"{where}: {name} (line {', '.join(map(str, sorted(set(lines))))}): use {advice(name)}"


@pytest.mark.parametrize(
    "name", ["given", "given_text", "is_judged", "_shown", "PlaceOfData", "leave_out_text", "SHARE"]
)
def test_a_forbidden_word_is_found_within_a_name(name: str) -> None:
    assert advice(name)


@pytest.mark.parametrize("name", ["replace", "shared", "placement", "leave", "LookupFree", "wholesale", "out_leave"])
def test_words_that_only_contain_its_letters_are_free(name: str) -> None:
    assert advice(name) is None


def test_every_kind_of_definition_is_seen() -> None:
    source = """
import a as given_alias
class GivenClass: given_field: int = 0
async def given_coroutine(given_1, *given_2, given_3=1, **given_4):
    self.given_attribute = [given_5 for given_5 in ()]
    with a as given_6, b: pass
    for given_7 in (): (given_8 := 1)
    try: pass
    except E as given_error: pass
    match x:
        case [given_9, *given_10] | {1: _, **given_11}: pass
lambda given_12: used_given
"""
    names = {name for _, name in defined_names(ast.parse(source)) if advice(name)}
    kinds = {"alias", "field", "coroutine", "attribute", "error", *map(str, range(1, 13))}
    assert names == {"GivenClass", *(f"given_{kind}" for kind in kinds)}


PACKAGES = sorted((PROJECT / "src" / "phenaki").iterdir())


@pytest.mark.parametrize(
    "path",
    [path for path in PACKAGES if path.suffix == ".py" or (path / "__init__.py").exists()],
    ids=lambda path: path.name,
)
def test_no_name_of_the_package_is_forbidden(path: Path) -> None:
    assert not (found := list(violations([path]))), "\n".join(found)


if __name__ == "__main__":
    found = list(violations([Path(argument) for argument in sys.argv[1:]] or [PROJECT / "src"]))
    print(*found, f"{len(found)} names", sep="\n")
    sys.exit(bool(found))
