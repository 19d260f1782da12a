"""Videos that are steered in a browser: `phenaki play`."""

from __future__ import annotations

import errno
import signal
import socket
import warnings
from contextlib import suppress
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError, PhenakiWarning, pluralize

LIVE_MODEL = "shapes-64-causal"
PORT = 8300
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_FURTHER = 100  # ports that are tried after a taken one


@app.command(rich_help_panel="Generate")
def play(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model in the package (see `phenaki models`), a folder, or owner/name on the Hugging Face Hub.",
        ),
    ] = LIVE_MODEL,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on.", show_default=f"{PORT}, or the next free one"),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0: the network may connect.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name under which the server may be called; repeat for several."),
    ] = None,
    sessions: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Videos at once; others wait in line.",
            show_default="what this machine can make at the model's frame rate",
        ),
    ] = None,
    idle: Annotated[
        float, typer.Option(min=0.1, max=1440, metavar="MINUTES", help="End a session after this long without input.")
    ] = 30.0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Run layers through torch.compile: for sessions on a GPU.")
    ] = False,
) -> None:
    """Play a model in the browser: type prompts, press keys, and watch.

    phenaki play shapes-64-causal

    The page is at the address that is printed; Ctrl-C stops the server.
    """
    listener = _listen(host, port)
    with listener:
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
            import websockets  # noqa: F401
        except ImportError as error:
            raise PhenakiError(f"{error.name} is missing: pip install 'phenaki[play]'") from error
        from phenaki.pipeline import Phenaki
        from phenaki.play.engine import Engine
        from phenaki.play.server import Settings, make_server

        opened = Phenaki.from_pretrained(model)
        engine = Engine(opened.compile(), processes=0) if compile else Engine(opened)  # it cannot be sent to processes
        seconds = engine.measure()
        limit = sessions or engine.capacity(seconds)
        address, number = listener.getsockname()[:2]
        rate = engine.workers / seconds  # of several sessions, which are computed in one batch
        print(f"{engine.name}: {rate:.1f} frames per second in all, {pluralize(limit, 'session')} at once", flush=True)
        print(f"http://{f'[{address}]' if ':' in address else address}:{number} (Ctrl-C stops)", flush=True)
        names = (*(allow_host or ()), socket.gethostname())
        server = make_server(engine, Settings(limit, 60 * idle, tuple(name.lower() for name in names)))
        warnings.simplefilter("ignore", PhenakiWarning)  # what is said of a prompt goes to the client that wrote it
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):  # the server raises it once more when it has ended
            server.run(sockets=[listener])
        engine.close()
    print("stopped")


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket on `port`, or on the first free one from PORT on. Raises PhenakiError for a port that is taken, naming
    the next free one, and for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(port or PORT, min(65536, (port or PORT) + _FURTHER)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)
        except OverflowError:
            listener.close()
            break
        except OSError as error:
            listener.close()
            if isinstance(error, socket.gaierror) or error.errno in _NO_ADDRESS:
                raise PhenakiError(f"'{host}' is no address of this machine: use 127.0.0.1 or 0.0.0.0") from error
            if isinstance(error, PermissionError):
                raise PhenakiError(f"port {number} is not yours to use: take one above 1023") from error
            continue
        if port in (None, number):
            return listener
        listener.close()
        raise PhenakiError(f"port {port} is taken: --port {number} is free")
    raise PhenakiError(f"port {port or PORT} and those after it are taken: name another with --port")
