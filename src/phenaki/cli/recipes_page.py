"""The reference of all keys of recipes, made from the dataclasses: `phenaki recipes --reference`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from phenaki.core.config import to_dict
from phenaki.training import recipes

_HEAD = """# Recipes

```
phenaki recipes --reference > docs/reference/recipes.md
```

All recipes, and the keys that `KEY=VALUE` overrides (`optimizer.lr=1e-3`), with the defaults of their classes. `phenaki
recipes NAME` prints the values of a recipe.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_recipes(), *_sections()]).rstrip() + "\n"


def _recipes() -> Iterator[str]:
    for stage, known in recipes.STAGES.items():
        yield f"## `phenaki train {stage} --recipe NAME`\n\n| recipe | |\n|---|---|"
        for name, make in sorted(known.items()):
            yield f"| `{name}` | {_cell(make.__doc__)} |"
        yield ""


def _sections() -> Iterator[str]:
    """Each class of a section once, under the names that it has in recipes."""
    found: dict[type, dict[str, None]] = {}
    for stage, known in recipes.STAGES.items():
        for make in known.values():
            for path, cls in ((f"({stage})", type(make())), *_classes(type(make()), "")):
                found.setdefault(cls, {})[path] = None
    for cls, paths in sorted(found.items(), key=lambda item: next(iter(item[1]))):
        own = [
            field for field in dataclasses.fields(cls) if field.init and not _nested(get_type_hints(cls)[field.name])
        ]
        if not own and next(iter(paths)).startswith("("):
            continue
        yield f"## {', '.join(f'`{path}`' for path in paths)}: {cls.__name__}\n"
        if (doc := inspect.getdoc(cls)) and not doc.startswith(f"{cls.__name__}("):
            yield doc + "\n"
        explained, hints = _explanations(cls), get_type_hints(cls)
        if own:
            yield "| key | type | default | |\n|---|---|---|---|"
            for field in own:
                cells = _kind(hints[field.name]), _default(field), _cell(explained.get(field.name))
                yield f"| `{field.name}` | {' | '.join(cells)} |"
        yield ""


def _classes(cls: type, path: str) -> Iterator[tuple[str, type]]:
    """The configurations nested in a class, by their keys."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        key = f"{path}.{field.name}" if path else field.name
        for nested in _nested(hints[field.name]):
            yield key, nested
            yield from _classes(nested, key)


def _nested(kind: Any) -> list[type]:
    """The dataclasses that an annotation allows; those in a tuple are items."""
    if dataclasses.is_dataclass(kind):
        return [kind]
    if get_origin(kind) in (Union, types.UnionType, tuple, list):
        return [cls for member in get_args(kind) for cls in _nested(member)]
    return []


def _explanations(cls: type) -> dict[str, str]:
    """The string below each field, of the class and those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, below in zip(body, body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else _kind(member) for member in get_args(kind))
    if get_origin(kind) in (tuple, list):
        members = [member for member in get_args(kind) if member is not Ellipsis]
        return f"list of {_kind(members[0])}" if members else "list"
    return getattr(kind, "__name__", str(kind))


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "required"
    else:
        value = field.default
    return f"`{json.dumps(to_dict(value) if dataclasses.is_dataclass(value) else value)}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
