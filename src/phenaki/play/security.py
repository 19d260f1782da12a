"""Which requests are answered at all: those that name this server, and come from its own page or from a program."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.exceptions import HTTPException

from phenaki.play.protocol import LARGEST_UPLOAD, UPLOAD_SECONDS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Gate:
    """Refuses requests under another name (Host), which anybody may point to this machine, and of other pages (Origin).

    hosts: names that the server may be called, besides localhost and plain IP addresses.
    """

    def __init__(self, app: App, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        reason = self.refusal(headers.get("host", ""), headers.get("origin"))
        if reason is None and scope["type"] == "http":
            await self.app(scope, _bounded(receive), _with_headers(send))
        elif reason is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        else:
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": plain})
            await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def refusal(self, host: str, origin: str | None) -> str | None:
        """Why a request is refused; None: it is not."""
        name = _split(f"//{host}").hostname if host else None
        if name is None or not (name in self.hosts or _is_address(name)):
            return (
                f"this server is not called '{host}': use its address, or start it with --allow-host {name or 'NAME'}"
            )
        if origin is not None and _split(origin).netloc != host:
            return f"pages of '{origin}' may not use this server: open http://{host} itself"
        return None


def _split(url: str) -> SplitResult:
    """Of what is no URL, such as "//[", nothing."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bounded(receive: Receive) -> Receive:
    """Raises HTTPException for a body that is too large, once so much of it has come, and for one that does not end."""
    size = 0
    end: float | None = asyncio.get_running_loop().time() + UPLOAD_SECONDS

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal size, end
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"the request took more than {UPLOAD_SECONDS:.0f} s: send less") from error
        size += len(message.get("body", b""))
        if size > LARGEST_UPLOAD:
            raise HTTPException(413, f"more than {LARGEST_UPLOAD // 1_000_000} MB: send less")
        if not message.get("more_body"):
            end = None  # the next message says that the client is gone
        return message

    return receive_bounded


def _with_headers(send: Send) -> Send:
    async def send_with(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return send_with
