"""The package says what it needs, and what surrounds it can be read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PYPROJECT["optional-dependencies"]


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_dependency_has_a_lower_bound(extra: str) -> None:
    for requirement in EXTRAS[extra] if extra else PYPROJECT["dependencies"]:
        assert ">=" in requirement or requirement.startswith("phenaki["), requirement


def test_bounds_of_the_tests_are_those_of_the_package() -> None:
    def bounds(requirements: list[str]) -> dict[str, str]:
        return {re.split("[>=<]", requirement)[0]: requirement for requirement in requirements}

    dev = bounds(EXTRAS["dev"])
    for name, requirements in EXTRAS.items():
        for package, requirement in bounds(requirements).items():
            assert dev.get(package, requirement) == requirement, f"{package} of the extra {name}"


def test_all_is_every_extra_for_users() -> None:
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"[\w-]+", everything)[1:]) == set(EXTRAS) - {"all", "dev", "docs", "doom", "ray"}


def test_classifiers_follow_requires_python() -> None:
    minors = sorted(int(c.rpartition(".")[2]) for c in PYPROJECT["classifiers"] if ":: 3." in c)
    assert PYPROJECT["requires-python"] == f">=3.{minors[0]}" and minors == list(range(minors[0], 15))


@pytest.mark.parametrize(
    "file", sorted(map(str, (PROJECT / ".github").rglob("*.yml"))) + [str(PROJECT / "CITATION.cff")]
)
def test_files_around_it_are_yaml(file: str) -> None:
    assert isinstance(yaml.safe_load(Path(file).read_text(encoding="utf-8")), dict)


def test_workflows_hold_no_secret_and_test_both_ends() -> None:
    text = "\n".join(path.read_text() for path in (PROJECT / ".github" / "workflows").iterdir())
    assert "secrets." not in text and "id-token: write" in text
    assert "--resolution lowest-direct" in text and '"3.14"' in text


def test_windows_can_import_everything_without_modules_of_unix() -> None:
    """Modules that Windows lacks are imported in a `try`, or in a function that does without them."""
    bare = re.compile(r"^import (resource|fcntl|pwd|grp|termios)|^from (resource|fcntl|pwd|grp|termios)", re.MULTILINE)
    wrong = [path for path in (PROJECT / "src").rglob("*.py") if bare.search(path.read_text(encoding="utf-8"))]
    assert not wrong
