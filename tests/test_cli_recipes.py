"""The reference of recipes is that of the code."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from phenaki.cli import app
from phenaki.core.config import to_dict
from phenaki.training import recipes

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "recipes.md"


def test_the_page_is_up_to_date() -> None:
    printed = CliRunner().invoke(app, ["recipes", "--reference"])
    assert printed.exit_code == 0, printed.output
    assert printed.output == PAGE.read_text(encoding="utf-8"), "phenaki recipes --reference > docs/reference/recipes.md"


def test_every_key_of_every_recipe_is_on_it() -> None:
    page = PAGE.read_text(encoding="utf-8")

    def keys(values: dict) -> set[str]:
        return {
            key for name, value in values.items() for key in ({name} if not isinstance(value, dict) else keys(value))
        }

    for known in recipes.STAGES.values():
        for name, make in known.items():
            assert f"| `{name}` |" in page
            missing = {key for key in keys(to_dict(make())) if f"`{key}`" not in page and f".{key}`" not in page}
            assert not missing, (name, missing)
