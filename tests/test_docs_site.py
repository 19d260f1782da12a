"""The site of the docs has every page, and no link in it is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

PROJECT = Path(__file__).parents[1]
CONFIG = tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def pages(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for page in entry.values():
            yield from pages(page) if isinstance(page, list) else [page]


def test_the_navigation_names_every_page() -> None:
    written = {str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").rglob("*.md")}
    navigation = list(pages(CONFIG["nav"]))
    assert written <= set(navigation) and len(set(navigation)) == len(navigation)
    for page in navigation:
        assert (PROJECT / page).is_file(), page


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.mark.slow
def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="pip install 'phenaki[docs]'")
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "zensical.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    for name in ("docs", "examples", "src"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    ended = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0 and "No issues found" in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    assert "griffe" not in ended.stderr, ended.stderr
    site = tmp_path / CONFIG["site_dir"]
    built = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(built) >= len(list(pages(CONFIG["nav"])))
    for path, page in built.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if target.startswith(("http", "data:", "mailto:")):
                continue
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), f"{path.relative_to(site)} links to {link}"
            assert not anchor or file.suffix != ".html" or anchor in built[file].anchors, f"{path}: {link}"
    reference = built[site / "docs/reference/python.html"].anchors
    assert {"phenaki.Phenaki.generate", "phenaki.load", "phenaki.Tokenizer.encode"} <= reference
