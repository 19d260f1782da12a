"""The application that the commands are added to, and how each of them ends."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from phenaki.cli.help import App, Group, suggest_option
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.core.version import __version__

BAD_INPUT, INTERRUPTED = 2, 130
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


_ORDER = (
    *("generate", "extend", "interpolate", "inpaint", "play", "demo", "models", "info", "push"),
    *("data", "train", "export", "recipes", "plan", "runs", "evaluate", "compare", "reconstruct"),
    *("import", "weights", "doctor"),
)


class _Commands(Group):
    """Ends a command with a sentence and an exit code, not a traceback, where the user can fix the error."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        if " " in args[0]:
            raise PhenakiError(f"say what to do with the prompt, as in phenaki generate {shlex.quote(args[0])}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PhenakiError as error:
            _fail(str(error))
        except typer.BadParameter as error:
            _name_value(error)
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:  # `phenaki models | head`: typer exits silently
                raise
            _fail(f"{error.strerror or error}" + (f": '{error.filename}'" if error.filename else ""))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            _fail("out of memory: generate fewer samples at once, or train with smaller batches")
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except Exception as error:
            suggest_option(error)
            raise


def _name_value(error: typer.BadParameter) -> None:
    """Add the value to typer's sentence where only the pydantic error behind it has it."""
    if hasattr(error.__cause__, "errors"):
        error.message = f"{error.__cause__.errors()[0]['input']!r}: {error.message}"


def _fail(sentence: str, code: int = BAD_INPUT) -> NoReturn:
    print(f"phenaki: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


app = App(
    cls=_Commands,
    help="Text to video: generate videos, train models, evaluate them.",
    epilog="Help for a command: phenaki generate --help",
    pretty_exceptions_enable=False,
)


def main() -> None:
    # Read when torch is imported. Waiting threads that spin slow torch down many times over on a busy machine; threads
    # that sleep at once cost a third of the speed (docs/log.md). So they spin briefly, then sleep.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold letters that a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _warning
    app(prog_name="phenaki")


_format_warning = warnings.formatwarning


def _warning(message: Warning | str, category: type[Warning], *location: Any) -> str:
    """A PhenakiWarning is printed as a sentence, others as Python does."""
    return f"phenaki: {message}\n" if category is PhenakiWarning else _format_warning(message, category, *location)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phenaki {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
