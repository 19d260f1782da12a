"""The server: the page, a WebSocket for each session, and videos over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from phenaki.core.config import to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.version import __version__
from phenaki.pipeline import Event, World
from phenaki.play import protocol
from phenaki.play.engine import Engine, Lobby
from phenaki.play.keys import bind_keys
from phenaki.play.protocol import VideoRequest
from phenaki.play.recording import Recorder, to_picture
from phenaki.play.security import Gate
from phenaki.play.session import Session, new_recording

FIRST_MESSAGE_SECONDS = 10.0  # in which a client must say what to play
IDLE_IN_LINE_SECONDS = 120.0  # without an input, while others wait
_POLICY_VIOLATION, _GOING_AWAY, _INTERNAL_ERROR = 1008, 1001, 1011  # codes of a WebSocket's end

log = logging.getLogger(__name__)


@dataclass
class Settings:
    """sessions: at once. idle_seconds: without an input, until a session ends. hosts: names that the server may be
    called."""

    sessions: int
    idle_seconds: float = 1800.0
    hosts: tuple[str, ...] = ()


class SessionEnd(Exception):
    """A session ends, for a reason that its client is told."""

    def __init__(self, reason: str, code: int = _POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Server:
    """What the routes share."""

    engine: Engine
    settings: Settings
    lobby: Lobby = field(init=False)
    sessions: dict[str, Session] = field(default_factory=dict)
    connected: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.lobby = Lobby(self.settings.sessions)

    def describe(self) -> dict[str, Any]:
        """The model and what it can be asked, for the page and other clients."""
        model = self.engine.model
        causal, sampling = model.generator.has_cache, model.sampling
        height, width = model.image_size
        return {
            "name": self.engine.name,
            "fps": model.fps,
            "height": height,
            "width": width,
            "causal": causal,
            "frames_per_step": model.tokenizer.patch[0] if causal else model.generator.config.frames - 1,
            "actions": bind_keys(model.generator.config.actions if causal else None),
            "examples": list(model.domain.prompts),
            "subject": model.domain.subject,
            "options": {
                "guidance_scale": sampling.guidance.scale,
                "steps": sampling.decoding.steps,
                "temperature": sampling.decoding.temperature,
            },
            "sampling": to_dict(sampling),
            "sessions": self.settings.sessions,
            "playing": self.lobby.playing,
            "waiting": self.lobby.waiting,
            "phenaki": __version__,
        }


# ---- the WebSocket


async def serve_client(server: Server, client: WebSocket) -> None:
    """One client from its first message to its last."""
    await client.accept()
    server.connected += 1
    try:
        await _serve_client(server, client)
    finally:
        server.connected -= 1


async def _serve_client(server: Server, client: WebSocket) -> None:
    session = Session(server.engine, secrets.token_urlsafe(16))
    session.reply(type="model", **server.describe())
    tasks = [
        asyncio.create_task(job)
        for job in (_read(session, client), _write(session, client), _attend(server, session), _watch(server, session))
    ]
    end: BaseException | None = None
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(end, SessionEnd):
                end = result
    if isinstance(end, WebSocketDisconnect | None):
        return
    if not isinstance(end, SessionEnd):
        log.error("a session failed", exc_info=end)
        end = SessionEnd("the server made a mistake; its terminal says more", _INTERNAL_ERROR)
    with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # the client may be gone
        async with asyncio.timeout(1):
            await client.send_text(json.dumps({"type": "end", "message": str(end)}))
            await client.close(end.code)


async def _read(session: Session, client: WebSocket) -> None:
    tokens, before = float(protocol.BURST), time.monotonic()
    while True:
        event = await client.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1000))
        now = time.monotonic()
        tokens = min(protocol.BURST, tokens + (now - before) * protocol.RATE) - 1
        before = now
        if tokens < 0:
            raise SessionEnd(f"more than {protocol.RATE} messages a second: send fewer")
        try:
            if event.get("text") is None:
                raise PhenakiError("a binary message: send JSON as text")
            session.put(protocol.parse(event["text"]))
        except PhenakiError as error:
            session.reply(type="error", id=0, message=str(error))


async def _write(session: Session, client: WebSocket) -> None:
    while True:
        message = await session.send()
        if isinstance(message, bytes):
            await client.send_bytes(message)
        else:
            await client.send_text(json.dumps(message))


async def _attend(server: Server, session: Session) -> None:
    """Wait in line, then play."""

    def on_position(position: int) -> None:
        session.reply(type="waiting", position=position, waiting=server.lobby.waiting)

    try:
        async with server.lobby.session(on_position):
            server.sessions[session.name] = session
            session.last_input = time.monotonic()
            session.reply(type="admitted", session=session.name)
            try:
                await session.play()
            finally:
                del server.sessions[session.name]
    except PhenakiError as error:  # the line is full
        raise SessionEnd(str(error)) from error


async def _watch(server: Server, session: Session) -> None:
    """End a session that nobody uses, and all when the server stops."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.stopping.wait()
        if server.stopping.is_set():
            raise SessionEnd("the server was stopped", _GOING_AWAY)
        silent = time.monotonic() - session.last_input
        if session.name not in server.sessions:
            continue
        if session.recorder is None and silent > FIRST_MESSAGE_SECONDS:
            raise SessionEnd(f"nothing was asked for in {FIRST_MESSAGE_SECONDS:.0f} seconds: send a start first")
        limit = server.settings.idle_seconds
        if server.lobby.waiting:
            limit = min(limit, IDLE_IN_LINE_SECONDS)
        if silent > limit:
            raise SessionEnd(f"no input for {limit / 60:.0f} minutes: the session has ended")


# ---- HTTP


async def make_video(server: Server, request: VideoRequest, http: Request) -> bytes:
    """The mp4 of a request, made beside the sessions and counted as one."""
    engine = server.engine
    events = tuple(Event(**step.model_dump()) for step in request.events)

    def begin() -> tuple[World, Recorder]:
        recording = new_recording(engine, request.prompt, request.seed, request.options, request.picture, events=events)
        world = recording.open(engine.model)
        return world, Recorder(recording, world, engine.model.fps)

    async with server.lobby.session():
        world, recorder = await engine.run(begin)
        missing = max(1, round(request.seconds * engine.model.fps))
        while missing > 0:
            if server.stopping.is_set() or await http.is_disconnected():
                raise PhenakiError("the server was stopped, or nobody waits for the video any more")
            clip = (await engine.run(world.step))[:missing]
            recorder.add(np.ascontiguousarray(clip))
            missing -= len(clip)
    return await engine.run_file(recorder.save, request.upscale)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, of at most `limit` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"more than {limit // 1_000_000} MB: use a smaller file")
    return bytes(body)


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
        data = await read_body(http, protocol.LARGEST_UPLOAD)
        fitted = await server.engine.run_file(to_picture, data, server.engine.model.image_size)
        return PlainTextResponse(fitted)

    @app.get("/api/sessions/{name}/video.mp4", responses={200: {"content": {"video/mp4": {}}}})
    async def last_minute(name: str) -> Response:
        """The last minute of a session, with prompts, keys and seed inside: `phenaki generate --replay` repeats it."""
        server: Server = app.state.server
        session = server.sessions.get(name)
        if session is None or session.recorder is None:
            raise HTTPException(404, "there is no such session, or it has ended")
        data = await server.engine.run_file(session.recorder.save)
        disposition = {"Content-Disposition": 'attachment; filename="phenaki.mp4"'}
        return Response(data, media_type="video/mp4", headers=disposition)

    @app.get("/api/protocol")
    async def messages() -> dict[str, Any]:
        """JSON Schema of the messages that a client may send over the WebSocket /api/play."""
        return protocol.MESSAGES.json_schema()

    @app.websocket("/api/play")
    async def play(client: WebSocket) -> None:
        await serve_client(app.state.server, client)


class _Uvicorn(uvicorn.Server):
    """Tells the clients before it closes their connections."""

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
        ws_max_queue=16,
        ws_ping_interval=10,
        ws_ping_timeout=10,
        ws_per_message_deflate=False,  # it would run on the event loop
        timeout_graceful_shutdown=3,
        server_header=False,
        proxy_headers=False,
    )
    return _Uvicorn(config)
