"""What the documents name is there."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

import phenaki

PACKAGE = Path(phenaki.__file__).parent
PROJECT = PACKAGE.parents[1]
REFERENCE = re.compile(r"`([a-z0-9_/]+\.py)(?:: ([\w., ]+))?`")  # `room/file.py` or `room/file.py: name, Class.method`
LINK = re.compile(r"\]\(([^)#]+)\)")


DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/paper.md")  # docs/log.md tells of what is gone, too


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_names_exist(name: str) -> None:
    document = PROJECT / name
    for file, names in REFERENCE.findall(document.read_text(encoding="utf-8")):
        if (PROJECT / file).is_file() and not names:
            continue
        assert (PACKAGE / file).is_file(), f"{name} names {file}"
        module = importlib.import_module(
            "phenaki." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )
        for named in filter(None, names.split(", ")):
            reduce(getattr, named.split("."), module)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = PROJECT / name
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), f"{name} links to {target}"
