"""The application that the commands are added to, and how each of them ends."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.core.version import __version__

BAD_INPUT, INTERRUPTED = 2, 130
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class _Commands(TyperGroup):
    """Ends a command that was given something it cannot work with by a sentence and an exit code, not a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PhenakiError as error:
            _fail(str(error))
        except typer.BadParameter as error:
            _name_value(error)
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:  # `phenaki models | head`: for typer to end in silence
                raise
            _fail(f"{error.strerror or error}" + (f": '{error.filename}'" if error.filename else ""))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            _fail("this takes more memory than there is: make fewer samples at once, or train with smaller batches")
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)


def _name_value(error: typer.BadParameter) -> None:
    """Put what was given into typer's sentence, where only the pydantic error that it stands for knows it."""
    if hasattr(error.__cause__, "errors"):
        error.message = f"{error.__cause__.errors()[0]['input']!r}: {error.message}"


def _fail(sentence: str, code: int = BAD_INPUT) -> NoReturn:
    print(f"phenaki: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Text to video: generate videos, train such models, and judge them.",
    epilog="Each command explains itself: phenaki generate --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    # Read when torch is imported: beside another busy process, threads that spin while they wait slow it down many
    # times over; threads that sleep at once cost a third of the speed (docs/log.md). So they spin for a moment.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    warnings.formatwarning = _warning
    app(prog_name="phenaki")


_format_warning = warnings.formatwarning


def _warning(message: Warning | str, category: type[Warning], *location: Any) -> str:
    """Those that are meant for people are a sentence; the others are as Python writes them."""
    return f"phenaki: {message}\n" if category is PhenakiWarning else _format_warning(message, category, *location)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phenaki {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
