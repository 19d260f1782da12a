"""Connections that do nothing any more. The web server would keep them, and their descriptors, for ever."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

IDLE_SECONDS = 30.0


class IdleConnections:
    """Ends connections of uvicorn that have asked for nothing, or half of it, for IDLE_SECONDS, and closed ones that do
    not take what is left for them."""

    def __init__(self) -> None:
        self._since: dict[Any, tuple[int, float]] = {}  # bytes left, and since when there are so many

    def end(self, connections: Iterable[Any]) -> None:
        """Call every few seconds with all connections."""
        now, since = time.monotonic(), {}
        for connection in list(connections):
            transport = connection.transport
            if not (transport.is_closing() or _asks_for_nothing(connection)):
                continue
            left = transport.get_write_buffer_size()
            before = self._since.get(connection, (left, now))
            since[connection] = before if before[0] == left else (left, now)
            if now - since[connection][1] > IDLE_SECONDS:
                transport.abort() if transport.is_closing() else transport.close()
        self._since = since


def _asks_for_nothing(connection: Any) -> bool:
    """Whether it has no request that is being answered."""
    if not hasattr(connection, "cycle"):  # a WebSocket, which has limits of its own
        return False
    return connection.cycle is None or connection.cycle.response_complete
