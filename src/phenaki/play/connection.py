"""A client's WebSocket, and the session behind it, which waits a while for a client whose connection broke."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from phenaki.core.errors import PhenakiError
from phenaki.play import protocol
from phenaki.play.session import Session
from phenaki.play.state import Server

FIRST_MESSAGE_SECONDS = 300.0  # in which a client must say what to play; until then it takes no session
IDLE_IN_LINE_SECONDS = 120.0  # without an input, while others wait
REJOIN_SECONDS = 15.0  # for which the session of a broken connection is kept
_MOST_CLIENTS = 500  # that may be connected; a hundred of them in line
_LEFT = (1000, 1001)  # codes with which a client says that it is gone; a broken connection has 1005 or 1006
_POLICY_VIOLATION, _GOING_AWAY, _INTERNAL_ERROR, _TRY_AGAIN = 1008, 1001, 1011, 1013

log = logging.getLogger(__name__)


class SessionEnd(Exception):
    """A session ends, for a reason that its client hears."""

    def __init__(self, reason: str, code: int = _POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.code = code


async def serve_client(server: Server, client: WebSocket, name: str = "") -> None:
    """One client from its first message to its last. `name`: of the session that it had before, if it is still kept;
    a connection that is left of it ends."""
    if server.connected >= _MOST_CLIENTS:
        await client.close(_TRY_AGAIN)
        return
    await client.accept()
    session = server.sessions.get(name)
    if session is None:
        session = server.new_session()
        session.task = asyncio.create_task(_run(server, session))
        session.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else may ask
    else:
        session.replaced.set()
    server.connected += 1
    try:
        await _serve(server, session, client)
    finally:
        server.connected -= 1


async def _serve(server: Server, session: Session, client: WebSocket) -> None:
    async with session.connection:
        rejoined, replaced = session.replaced.is_set(), asyncio.Event()
        session.replaced = replaced
        if rejoined:
            session.rejoin()
            session.reply(type="admitted", session=session.name)
        session.greet(type="model", rejoined=rejoined, **server.describe())
        jobs = [asyncio.create_task(job) for job in (_read(session, client), _write(session, client), replaced.wait())]
        await asyncio.wait([*jobs, session.task], return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        results = await asyncio.gather(*jobs, return_exceptions=True)
    if replaced.is_set():
        end = SessionEnd("this session goes on in another connection")
    elif session.task.done():
        end = None if session.task.cancelled() else session.task.exception()
    else:
        failed = [result for result in results if isinstance(result, Exception)]
        end = next((result for result in failed if isinstance(result, SessionEnd)), failed[0] if failed else None)
    if isinstance(end, WebSocketDisconnect | None):
        _leave(server, session, end)
        return
    if not replaced.is_set():
        session.task.cancel()
    if not isinstance(end, SessionEnd):
        log.error("a session failed", exc_info=end)
        end = SessionEnd("the server made a mistake; its terminal says more", _INTERNAL_ERROR)
    with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # the client may be gone
        async with asyncio.timeout(1):
            await client.send_text(json.dumps({"type": "end", "message": str(end)}))
            await client.close(end.code)


def _leave(server: Server, session: Session, end: WebSocketDisconnect | None) -> None:
    """End the session of a client that is gone; if its connection broke, after a while."""

    replaced = session.replaced

    def expire() -> None:
        if session.replaced is replaced:
            session.task.cancel()

    broken = end is not None and end.code not in _LEFT
    if broken and session.name in server.sessions and not server.stopping.is_set():
        asyncio.get_running_loop().call_later(REJOIN_SECONDS, expire)
    else:
        session.task.cancel()


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


# ---- the session


async def _run(server: Server, session: Session) -> None:
    """A session from the line to its end, which is an exception."""
    jobs = [asyncio.create_task(job) for job in (_attend(server, session), _watch(server, session))]
    try:
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def _attend(server: Server, session: Session) -> None:
    """Wait for something to play and in line, then play."""

    def on_position(position: int) -> None:
        session.reply(type="waiting", position=position, waiting=server.lobby.waiting)

    await session.asked.wait()
    try:
        async with server.lobby.session(on_position):
            server.sessions[session.name] = session
            session.last_input = time.monotonic()
            session.reply(type="admitted", session=session.name)
            try:
                await session.play()
            finally:
                del server.sessions[session.name]
                server.engine.release(session.name)
    except PhenakiError as error:  # the line is full, or a worker has died
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
        if not session.asked.is_set() and silent > FIRST_MESSAGE_SECONDS:
            raise SessionEnd(f"nothing was asked for in {FIRST_MESSAGE_SECONDS:.0f} seconds: send a start first")
        if session.name not in server.sessions:
            continue
        limit = server.settings.idle_seconds
        if server.lobby.waiting:
            limit = min(limit, IDLE_IN_LINE_SECONDS)
        if silent > limit:
            raise SessionEnd(f"no input for {limit / 60:.0f} minutes: the session has ended")
