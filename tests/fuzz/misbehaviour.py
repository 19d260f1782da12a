"""What clients of `phenaki play` may do to it. Each is called with the server's address and a random generator."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from websockets.asyncio.client import ClientConnection, connect

from fuzz.mutate import ODD, mutate_bytes, mutate_json

START = {"type": "start", "prompt": "a red circle"}
SOUND = [
    START,
    {"type": "say", "prompt": "a blue star", "id": 3},
    {"type": "press", "action": "left"},
    {"type": "move", "action": "x", "value": 0.5},
    {"type": "adjust", "option": "temperature", "value": 0.4},
    {"type": "speed", "fast": True},
    {"type": "ack", "latent_frame": 3},
]


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def websocket(address: str, query: str = "", **options: object) -> connect:
    return connect(f"ws://{address}/api/play{query}", open_timeout=60, close_timeout=1, compression=None, **options)


async def garbage(address: str, rng: Random) -> None:
    """Bytes that are no request, or a mutated one."""
    request = (
        f"GET /api/model HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
    )
    async with opened(address) as (reader, writer):
        writer.write(rng.randbytes(rng.randrange(5000)) if rng.random() < 0.3 else mutate_bytes(request, rng))
        await asyncio.wait_for(reader.read(1000), 5)


async def garbage_messages(address: str, rng: Random) -> None:
    async with websocket(address, rng.choice(("", "?session=x", "?session=%00&y=%ff"))) as socket:
        for _ in range(rng.randrange(60)):
            sound = rng.choice(SOUND)
            changed = json.dumps(mutate_json(sound, rng)) if rng.random() < 0.7 else repr(rng.choice(ODD))
            if rng.random() < 0.3:
                await socket.send(mutate_bytes(changed.encode(), rng))
            else:
                await socket.send(changed.encode(errors="replace").decode())
            await asyncio.sleep(rng.choice((0, 0.05)))


async def flood(address: str, rng: Random) -> None:
    async with websocket(address) as socket:
        for _ in range(5000):
            await socket.send(json.dumps(rng.choice(SOUND)))


async def silence(address: str, rng: Random) -> None:
    """A session that shows nothing."""
    async with websocket(address) as socket:
        await socket.send(json.dumps(START))
        await asyncio.sleep(rng.uniform(5, 60))


async def deaf(address: str, rng: Random) -> None:
    """Acknowledges what it has never read."""
    async with opened(address) as (reader, writer):
        key = base64.b64encode(rng.randbytes(16)).decode()
        headers = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        writer.write(f"GET /api/play HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        writer.write(_frame({**START, "fast": True}))
        await _write_often(writer, _frame({"type": "ack", "latent_frame": 10**9}), 600, 0.1)


def _frame(message: dict[str, object]) -> bytes:
    """A masked text frame."""
    data = json.dumps(message).encode()
    return bytes([0x81, 0x80 | len(data)]) + bytes(4) + data


async def huge(address: str, rng: Random) -> None:
    if rng.random() < 0.5:
        async with websocket(address) as socket:
            await socket.send("x" * 5_000_000)
            await socket.recv()
    else:
        async with opened(address) as (reader, writer):
            writer.write(f"POST /api/picture HTTP/1.1\r\nHost: {address}\r\nContent-Length: 999999999\r\n\r\n".encode())
            while not writer.is_closing():
                writer.write(bytes(1_000_000))
                await writer.drain()


async def wrong_origin(address: str, rng: Random) -> None:
    async with websocket(address, origin=rng.choice(("http://evil.example", "null", f"https://{address}.x"))):
        raise AssertionError("another page was let in")


async def half_open(address: str, rng: Random) -> None:
    """Half a request, and then nothing, or a byte now and then."""
    async with opened(address) as (reader, writer):
        writer.write(rng.choice((b"", b"GET /api/mo", b"POST /api/picture HTTP/1.1\r\nContent-Length: 99\r\nHost: x")))
        await _write_often(writer, b"\r", rng.choice((0, 60)), 1)
        await asyncio.wait_for(reader.read(), 60)


async def slow_body(address: str, rng: Random) -> None:
    async with opened(address) as (reader, writer):
        writer.write(f"POST /api/picture HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5000\r\n\r\n".encode())
        await _write_often(writer, b"x", 80, 1)


async def _write_often(writer: StreamWriter, data: bytes, times: int, seconds: float) -> None:
    for _ in range(times):
        if writer.is_closing():
            return
        writer.write(data)
        await asyncio.sleep(seconds)


async def vanish(address: str, rng: Random) -> None:
    """Gone without a word, in the middle of a session or in the line."""
    async with websocket(address) as socket:
        await socket.send(json.dumps(START))
        await _read_for(socket, rng.uniform(0, 10))
        socket.transport.abort()


async def video(address: str, rng: Random) -> None:
    """Requests of whole videos, most of them mutated."""
    body = json.dumps(mutate_json({"prompt": "a red circle", "seconds": 0.5, "upscale": 16}, rng)).encode()
    head = f"POST /api/video HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json"
    async with opened(address) as (reader, writer):
        writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), rng.choice((1, 60)))
        assert struct.unpack("3s", answer[9:12])[0] in (b"200", b"400", b"422", b"503"), answer


async def _read_for(socket: ClientConnection, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while True:
                await socket.recv()
    except TimeoutError:
        pass


MISBEHAVIOURS: dict[str, Callable[[str, Random], Awaitable[None]]] = {
    function.__name__: function
    for function in (
        *(garbage, garbage_messages, flood, silence, deaf, huge, wrong_origin, half_open, slow_body, vanish, video),
    )
}
