"""What models can, and how videos were made: `phenaki models` and `phenaki info`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    from phenaki.pipeline import Outline

_MEDIA = (".mp4", ".gif", ".webp", ".png", ".mov", ".mkv", ".webm", ".avi", ".jpg", ".jpeg")


@app.command(rich_help_panel="Generate")
def models() -> None:
    """List the models in the package, and what each can."""
    from phenaki.core import hub
    from phenaki.pipeline import read_outline

    if not hub.model_names():
        print("This installation has no models.")
    for name in hub.model_names():
        outline = read_outline(hub.ZOO / name)
        print(f"{name}: {outline.file.domain.subject or 'domain unknown'}")
        print(f"  {_shape(outline)}, {outline.megabytes:.1f} MB, licence {outline.file.domain.license or 'unknown'}")
        if outline.file.domain.prompts:
            print(f'  phenaki generate "{outline.file.domain.prompts[0]}" --model {name}')


@app.command(rich_help_panel="Generate")
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="A model (name, folder, or owner/name on the hub), or a video, animation or picture.",
            show_default=False,
        ),
    ],
) -> None:
    """Show what a model can, or how a video was made.

    phenaki info shapes-64

    phenaki info story.mp4
    """
    if Path(name).is_file() or Path(name).suffix.lower() in _MEDIA or _is_frames(Path(name)):
        print("\n".join(_file_lines(Path(name))))
        return

    from phenaki.core import hub
    from phenaki.pipeline import read_outline

    print("\n".join(_model_lines(name, read_outline(hub.resolve(name)))))


def _is_frames(path: Path) -> bool:
    return path.is_dir() and any(path.glob("frame_*.png"))


def _shape(outline: Outline) -> str:
    height, width = outline.tokenizer.image_size
    return f"{width}x{height} pixels, {outline.tokenizer.fps:g} fps, scenes of {outline.frames} frames"


def _model_lines(name: str, outline: Outline) -> Iterator[str]:
    from phenaki.core.config import to_dict

    domain = outline.file.domain
    yield f"{name}: {domain.subject or 'domain unknown'}"
    yield f"size: {_shape(outline)}"
    components = ", ".join(f"{kind} {outline.types[kind]} ({outline.parameters[kind]:,})" for kind in outline.types)
    yield f"components (parameters): {components}"
    yield f"files: {outline.megabytes:.1f} MB in {outline.folder}"
    yield f"licence: {domain.license or 'unknown'}"
    yield f"written by: phenaki {outline.file.phenaki}"
    yield f"words: {f'{len(domain.words)} words are known' if domain.words else 'any'}"
    yield from ("prompts to try:", *(f"  {prompt}" for prompt in domain.prompts)) if domain.prompts else ()
    yield "sampling:"
    yield from _tree(to_dict(outline.file.sampling))
    if outline.metrics:
        yield "metrics:"
        yield from _metric_lines(outline.metrics)


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    from phenaki.evaluation.report import ROWS

    for suite, block in metrics.items():
        for row in ROWS.get(suite, ()):
            if (metric := row.find(block)) is not None:
                yield f"  {suite}, {row.label}: {row.format(metric['rate'])}"


def _file_lines(path: Path) -> Iterator[str]:
    from phenaki.core.errors import BadSample
    from phenaki.media.metadata import VERSION, read_metadata
    from phenaki.media.reader import probe

    made = read_metadata(path)
    if path.is_file():
        try:
            found = probe(path, path.suffix.lower())
        except BadSample as error:
            raise PhenakiError(f"'{path}': {error}") from error
        rate = f" at {found.fps:g} fps" if found.frames > 1 else ""
        yield f"{path}: {found.frames} frames of {found.width}x{found.height}{rate}"
    if made is None:
        yield "it does not say how it was made"
        return
    yield f"made by: phenaki {made.pop(VERSION)}, {made.pop('command', 'unknown')}"
    yield from _tree(made, "")
    if "prompts" in made:
        yield f"again: phenaki generate --replay {os.fspath(path)}"


def _tree(values: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Nested values as lines; those that are not set are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _tree(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, str) for item in value):
            yield f"{indent}{name}:"
            yield from (f"{indent}  {item}" for item in value)
        elif value is not None:
            yield f"{indent}{name}: {value}"
