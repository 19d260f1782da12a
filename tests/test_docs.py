"""What the documents name is there, and their commands can be given."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

import phenaki
from phenaki.cli import app
from phenaki.core.config import override, to_dict
from phenaki.tokenizers import Tokenizer
from phenaki.training import recipes

PACKAGE = Path(phenaki.__file__).parent
PROJECT = PACKAGE.parents[1]
REFERENCE = re.compile(r"`([a-z0-9_/]+\.py)(?:: ([\w., ]+))?`")  # `room/file.py` or `room/file.py: name, Class.method`
LINK = re.compile(r"\]\(([^)#]*)#?([^)]*)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"--[a-z][a-z0-9-]+")
SCRIPT = re.compile(r"python ((?:benchmarks|runs|examples)/[\w/]+\.py)([^`\n#]*)")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)(=.+)?")  # of a configuration
ASSIGNED = re.compile(r"(?<=[\s\"'])([a-z_]+(?:\.[a-z0-9_]+)+)=")  # one on a command line

# docs/log.md and CHANGELOG.md name what is gone, too.
PATTERNS = ("[RC]*.md", "docs/**/*.md", "examples/**/README.md")
PAGES = (path for pattern in PATTERNS for path in PROJECT.glob(pattern))
CARDS = [str(path.relative_to(PROJECT)) for path in PACKAGE.glob("zoo/*/README.md")]
DOCUMENTS = sorted({str(page.relative_to(PROJECT)) for page in PAGES} - {"docs/log.md", "CHANGELOG.md"})
SHELL_SCRIPTS = sorted(str(path.relative_to(PROJECT)) for path in (*PROJECT.glob("*/*.sh"), *PROJECT.glob("*/*/*.sh")))


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest) -> Path:
    return PROJECT / request.param


def test_files_and_names_exist(document: Path) -> None:
    for file, names in REFERENCE.findall(document.read_text(encoding="utf-8")):
        if (PROJECT / file).is_file() and not names:
            continue
        assert (PACKAGE / file).is_file(), f"it names {file}"
        module = importlib.import_module(
            "phenaki." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )
        for named in filter(None, names.split(", ")):
            reduce(getattr, named.split("."), module)


@pytest.mark.parametrize("page", [*DOCUMENTS, *CARDS, "docs/log.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    document = PROJECT / page
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"it links to {target}"
        assert not anchor or anchor in anchors(file), f"it links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and the site name them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_imports_of_python_blocks_work(document: Path) -> None:
    for block in PYTHON.findall(document.read_text(encoding="utf-8")):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), {})


def test_arguments_of_python_blocks_exist(document: Path) -> None:
    """Keyword arguments of calls to methods of `Phenaki`, by the methods' names."""
    for block in PYTHON.findall(document.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                method = getattr(phenaki.Phenaki, node.func.attr, None) or getattr(phenaki, node.func.attr, None)
                if method is not None:
                    unknown = {keyword.arg for keyword in node.keywords} - keywords(method)
                    assert not unknown, f"{node.func.attr}() takes no {', '.join(unknown)}"


def keywords(function: Callable) -> set[str]:
    """Names of a function's arguments, those of `**options: Unpack[Options]` among them."""
    names = set(inspect.signature(function).parameters)
    for hint in get_type_hints(function).values():
        names |= {name for options in get_args(hint) for name in getattr(options, "__required_keys__", ())}
        names |= {name for options in get_args(hint) for name in getattr(options, "__optional_keys__", ())}
    return names


# ---- commands


@cache
def cli() -> TyperGroup:
    return typer.main.get_command(app)


def find(words: list[str]) -> tuple[TyperCommand | TyperGroup, list[str]]:
    """The command that words begin with, and what is left of them."""
    command = cli()
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options(command: TyperCommand | TyperGroup) -> set[str]:
    """Of a command, or of all in a group."""
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*map(options, getattr(command, "commands", {}).values()))


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `phenaki` of each command in the blocks of a document."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("phenaki "):
                yield shlex.split(line.partition(" > ")[0], comments=True)[1:]


def test_commands_can_be_given(document: Path) -> None:
    for words in commands(document.read_text(encoding="utf-8")):
        command, rest = find(words)
        assert not isinstance(command, TyperGroup), f"there is no phenaki {' '.join(words)}"
        given = command.make_context(command.name, list(rest)).params
        if words[0] == "train":
            of = recipes.STAGES[words[1]]
            override(recipes.recipe(given["recipe"], of), given["changes"] or [])


def test_commands_in_the_text_exist(document: Path) -> None:
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    for span in SPAN.findall(text):
        before, named, words = span.rpartition("phenaki ")
        if (before and not before.endswith("-m ")) or not (named or span.startswith("--")):
            continue
        command, rest = find(words.split())
        assert not named or command is not cli() or words.startswith("--"), f"there is no `{span}`"
        assert not isinstance(command, TyperGroup) or not rest or rest[0][0] in "-.", f"there is no `{span}`"
        assert set(OPTION.findall(words)) <= options(command), f"`{span}`"


def test_scripts_can_be_given(document: Path) -> None:
    for script, words in SCRIPT.findall(document.read_text(encoding="utf-8").replace("\\\n", " ")):
        source = (PROJECT / script).read_text(encoding="utf-8")
        for option in OPTION.findall(words):
            assert f'"{option}"' in source, f"{script} has no {option}"


def test_keys_of_configurations_exist(document: Path) -> None:
    known = [to_dict(make()) for make in (*recipes.TOKENIZER_RECIPES.values(), *recipes.GENERATOR_RECIPES.values())]
    for span in SPAN.findall(BLOCK.sub("", document.read_text(encoding="utf-8"))):
        key = KEY.fullmatch(span)
        if key and any(key[1].partition(".")[0] in config for config in known) and not key[1].endswith(".json"):
            part, _, rest = key[1].partition(".")
            attribute = part == "tokenizer" and hasattr(Tokenizer, rest)  # of code, not of a configuration
            assert attribute or any(has(config, key[1].split(".")) for config in known), f"there is no `{span}`"


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_keys_in_shell_scripts_exist(script: str) -> None:
    known = [to_dict(make()) for recipes_of in recipes.STAGES.values() for make in recipes_of.values()]
    for key in ASSIGNED.findall((PROJECT / script).read_text(encoding="utf-8")):
        assert any(has(config, key.split(".")) for config in known), f"there is no {key}"


def has(config: Any, path: list[str]) -> bool:
    return not path or (isinstance(config, dict) and path[0] in config and has(config[path[0]], path[1:]))
