"""The server of `phenaki play`: the page, a WebSocket for each session, and videos over plain HTTP."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from phenaki.core.errors import PhenakiError
from phenaki.core.version import __version__
from phenaki.media.convert import Frames
from phenaki.pipeline import Event
from phenaki.play import protocol
from phenaki.play.connection import serve_client
from phenaki.play.engine import Engine
from phenaki.play.idle import IdleConnections
from phenaki.play.protocol import VideoRequest
from phenaki.play.recording import Recording, digest, save, to_picture
from phenaki.play.security import Gate
from phenaki.play.state import Server, Settings


async def make_video(server: Server, request: VideoRequest, http: Request) -> bytes:
    """The mp4 of a request, made beside the sessions and counted as one."""
    engine = server.engine
    events = tuple(Event(**step.model_dump()) for step in request.events)

    async with server.lobby.session():
        name, clips = secrets.token_urlsafe(16), []
        try:
            await engine.run(name, "begin", request.prompt, request.seed, request.options, request.picture, events)
            missing = max(1, round(request.seconds * engine.model.fps))
            while missing > 0:
                if server.stopping.is_set() or await http.is_disconnected():
                    raise PhenakiError("the server was stopped, or nobody waits for the video any more")
                clips.append((await engine.make(name, [])).clip[:missing])
                missing -= len(clips[-1])
            _, recording = await engine.run(name, "snapshot")
        finally:
            engine.release(name)
    return await engine.run_file(_save, clips, recording, engine.model.fps, request.upscale)


def _save(clips: list[Frames], recording: Recording, fps: float, factor: int) -> bytes:
    frames = np.concatenate(clips)
    recording = replace(recording, skipped=0, frames=len(frames), sha256=digest(frames))
    return save(frames, recording, fps, factor)


def make_app(engine: Engine, settings: Settings) -> FastAPI:
    """The application, for a server such as uvicorn. `app.state.server` is its `Server`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.server = Server(engine, settings)
        yield

    app = FastAPI(
        title=f"phenaki play: {engine.name}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(Gate, hosts=frozenset(settings.hosts))

    @app.exception_handler(PhenakiError)
    async def say(request: Request, error: PhenakiError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def say_where(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        where = ".".join(str(key) for key in found["loc"])
        return JSONResponse({"detail": f"{where}: {found['msg']}"}, 422)

    _add_routes(app)
    app.mount("/", StaticFiles(directory=str(files("phenaki.play") / "static"), html=True))
    return app


def _add_routes(app: FastAPI) -> None:
    @app.get("/api/model")
    async def model() -> dict[str, Any]:
        """The model, its actions and their keys, and how many sessions there are."""
        return app.state.server.describe()

    @app.post("/api/video", responses={200: {"content": {"video/mp4": {}}}}, response_class=Response)
    async def video(request: VideoRequest, http: Request) -> Response:
        """A video from a prompt and events, as mp4, made as fast as it goes; 503 while all sessions are taken."""
        server: Server = app.state.server
        if server.lobby.playing >= server.lobby.limit:
            raise HTTPException(503, "all sessions are taken: try again in a minute", {"Retry-After": "60"})
        return Response(await make_video(server, request, http), media_type="video/mp4")

    @app.post("/api/picture", responses={200: {"content": {"text/plain": {}}}})
    async def picture(http: Request) -> PlainTextResponse:
        """A picture file (the body) fitted to the model: PNG in base64, for `picture` of other requests."""
        server: Server = app.state.server
        fitted = await server.engine.run_file(to_picture, await http.body(), server.engine.model.image_size)
        return PlainTextResponse(fitted)

    @app.get("/api/sessions/{name}/video.mp4", responses={200: {"content": {"video/mp4": {}}}})
    async def last_minute(name: str) -> Response:
        """The last minute of a session, with prompts, keys and seed inside: `phenaki generate --replay` repeats it."""
        server: Server = app.state.server
        session = server.sessions.get(name)
        if session is None:
            raise HTTPException(404, "there is no such session, or it has ended")
        frames, recording = await server.engine.run(name, "snapshot")
        if name not in server.sessions:  # it has ended meanwhile
            server.engine.release(name)
        data = await server.engine.run_file(save, frames, recording, server.engine.model.fps)
        disposition = {"Content-Disposition": 'attachment; filename="phenaki.mp4"'}
        return Response(data, media_type="video/mp4", headers=disposition)

    @app.get("/api/protocol")
    async def messages() -> dict[str, Any]:
        """JSON Schema of the messages that a client may send over the WebSocket /api/play."""
        return protocol.MESSAGES.json_schema()

    @app.websocket("/api/play")
    async def play(client: WebSocket, session: str = "") -> None:
        await serve_client(app.state.server, client, session)


class _Uvicorn(uvicorn.Server):
    """Ends connections that do nothing, and tells the clients before it closes theirs."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._idle = IdleConnections()

    async def on_tick(self, counter: int) -> bool:
        if counter % 20 == 0:  # every two seconds
            self._idle.end(self.server_state.connections)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        server: Server = self.config.app.state.server
        server.stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while server.connected:
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def make_server(engine: Engine, settings: Settings) -> uvicorn.Server:
    """A server to `run` with sockets, until Ctrl-C, SIGTERM or `should_exit`. When it stops, sessions end and their
    clients hear why."""
    config = uvicorn.Config(
        make_app(engine, settings),
        log_level="warning",
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=protocol.LARGEST_MESSAGE,
        ws_ping_interval=10,
        ws_ping_timeout=10,
        ws_per_message_deflate=False,  # it would run on the event loop
        limit_concurrency=1000,
        timeout_graceful_shutdown=3,
        server_header=False,
        proxy_headers=False,
    )
    return _Uvicorn(config)
