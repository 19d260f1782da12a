"""Imports point down, and what only some rooms may know stays there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import phenaki

ROOT = Path(phenaki.__file__).parent
# From the ground up: a room imports from rooms below it and from itself.
LAYERS = (
    {"errors"},
    {"files", "weights", "config", "precision", "progress", "grid"},
    {"video", "hub", "nn"},
    {"perceptual"},
    {"tokenizer", "text"},
    {"data", "worlds"},
    {"generator"},
    {"compat"},
    {"sample"},
    {"pipeline"},
    {"evaluate"},
    {"train"},
    {"recipes"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
FREE = {"__version__"}
ONLY_IN = {
    "phenaki.compat": {"compat", "cli"},
    "torch.distributed": {"train", "data"},
    "torch.utils.data": {"train", "data"},
    "torch.utils.tensorboard": {"train"},
    "torch.optim": {"train"},
    "typer": {"cli"},
    "av": {"video", "data"},
    "huggingface_hub": {"hub"},
    "transformers": {"text"},
}


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def test_every_room_has_its_height() -> None:
    assert {room for room, _ in files()} == set(HEIGHT)


def test_imports_point_down() -> None:
    wrong = []
    for room, path in files():
        for name in imports(path):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top != "phenaki" or target in FREE or target == room:
                continue
            if target not in HEIGHT or HEIGHT[target] >= HEIGHT[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_some_libraries_are_known_to_some_rooms_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in files()
        for name in imports(path)
        for library, rooms in ONLY_IN.items()
        if (name == library or name.startswith(library + ".")) and room not in rooms
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, phenaki, phenaki.cli; print(*(m for m in ('torch', 'numpy', 'av', 'PIL') if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
