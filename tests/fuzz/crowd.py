"""`python -m fuzz.crowd --minutes 10`: 100 clients of `phenaki play`, a third of which misbehave.

The others play for a while, leave, and come again. None of them may lose its session or wait without being told its
position in the line; afterwards the server holds no more descriptors than before, and no more memory. Exit code 1 if
one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fuzz.misbehaviour import MISBEHAVIOURS
from phenaki.play.protocol import HEADER

PROMPTS = ("a red circle obeys the arrow keys", "a blue star moves up", "a green square grows")
TOLD_SECONDS = 20.0  # in which a client hears its position, on a machine that others use too
STEP_SECONDS = 30.0  # in which a session makes its next latent frame
FLAT = 1.1  # memory at the end, of that in the middle


class Crowd:
    """Its clients, what they saw, and what they may not see: `faults`."""

    def __init__(self, address: str, minutes: float) -> None:
        self.address, self.end = address, time.monotonic() + 60 * minutes
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest: collections.defaultdict[str, float] = collections.defaultdict(float)
        self.faults: list[str] = []

    def fault(self, sentence: str) -> None:
        self.faults.append(f"{time.strftime('%H:%M:%S')} {sentence}")

    @property
    def lasts(self) -> bool:
        return time.monotonic() < self.end

    async def behave(self, number: int) -> None:
        """Play, leave and come again, until the end."""
        rng = Random(number)
        await asyncio.sleep(rng.uniform(0, 5))
        while self.lasts:
            try:
                async with connect(
                    f"ws://{self.address}/api/play", origin=f"http://{self.address}", open_timeout=60, compression=None
                ) as socket:
                    await _Visit(self, socket, rng).stay()
            except (ConnectionClosed, AssertionError, TimeoutError, OSError) as error:
                self.fault(f"client {number}: {type(error).__name__}: {error}")
                await asyncio.sleep(1)

    async def misbehave(self, number: int) -> None:
        rng = Random(-number)
        await asyncio.sleep(rng.uniform(5, 15))  # some others play by then
        while self.lasts:
            name = rng.choice(list(MISBEHAVIOURS))
            self.counts[name] += 1
            try:
                async with asyncio.timeout(90):
                    await MISBEHAVIOURS[name](self.address, rng)
            except AssertionError as error:
                self.fault(f"{name}: {error}")
            except Exception:  # a refusal is what they are after
                pass
            await asyncio.sleep(rng.uniform(0, 1))

    async def watch(self) -> None:
        """How long the clients themselves were held up: they answer no ping meanwhile, and then lose their sessions."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.1)
            self.note("client process", before + 0.1)

    def note(self, what: str, since: float) -> None:
        self.slowest[what] = max(self.slowest[what], time.monotonic() - since)


class _Visit:
    """One connection of a client that behaves."""

    def __init__(self, crowd: Crowd, socket: ClientConnection, rng: Random) -> None:
        self.crowd, self.socket, self.rng = crowd, socket, rng
        self.position: int | None = None
        self.latent_frame = 0
        self.leaves = crowd.end  # a while after it was admitted

    async def stay(self) -> None:
        json.loads(await self.socket.recv())  # the model
        await self.send(type="start", prompt=self.rng.choice(PROMPTS), seed=self.rng.randrange(10))
        asked, limit = time.monotonic(), TOLD_SECONDS
        while time.monotonic() < self.leaves:
            before = time.monotonic()
            try:
                message = await asyncio.wait_for(self.socket.recv(), min(limit, max(0.1, self.leaves - before)))
            except TimeoutError:
                assert time.monotonic() >= self.leaves, f"nothing for {limit} s at position {self.position}"
                break
            if isinstance(message, bytes):
                self.crowd.note("next latent frame", before)
                await self.show(HEADER.unpack_from(message)[0])
                continue
            message = json.loads(message)
            assert message["type"] in ("waiting", "admitted", "started", "note", "model"), f"{message}"
            if message["type"] == "waiting":
                if self.position is None:
                    self.crowd.note("position in line", asked)
                assert self.position is None or message["position"] <= self.position, f"{message} after {self.position}"
                self.position, limit = message["position"], float("inf")  # until those before have left
                self.crowd.counts["positions told"] += 1
            elif message["type"] == "admitted":
                self.crowd.counts["sessions"] += 1
                self.leaves, limit = time.monotonic() + self.rng.uniform(5, 30), STEP_SECONDS

    async def show(self, latent_frame: int) -> None:
        assert latent_frame > self.latent_frame, f"latent frame {latent_frame} after {self.latent_frame}"
        self.latent_frame = latent_frame
        self.crowd.counts["latent frames"] += 1
        await self.send(type="ack", latent_frame=latent_frame)
        if self.rng.random() < 0.3:
            await self.send(type="say", prompt=self.rng.choice(PROMPTS))

    async def send(self, **message: object) -> None:
        await self.socket.send(json.dumps(message))


# ---- the server


@contextmanager
def serve(model: str) -> Iterator[tuple[str, int]]:
    """Address and process of `phenaki play` with its default limit of sessions."""
    command = [sys.executable, "-m", "phenaki", "play", *([model] if model else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        print(server.stdout.readline().strip(), flush=True)
        try:
            yield server.stdout.readline().split()[0].removeprefix("http://"), server.pid
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> float:
    """Resident MB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in (pid, *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def run(address: str, pid: int, minutes: float, clients: int) -> list[str]:
    """What broke the rule, in sentences."""
    warm = Crowd(address, 0.2)
    await warm.behave(0)
    base = descriptors(pid)
    crowd, sizes, most = Crowd(address, minutes), [], 0
    bad = clients // 3
    jobs = [asyncio.create_task(crowd.misbehave(number + 1)) for number in range(bad)]
    jobs += [asyncio.create_task(crowd.behave(number)) for number in range(clients - bad)]
    watching = asyncio.create_task(crowd.watch())
    while any(not job.done() for job in jobs):
        await asyncio.sleep(2)
        if crowd.lasts:
            sizes.append(memory(pid))
        most = max(most, descriptors(pid))
    watching.cancel()
    for job in jobs:
        job.result()
    left = time.monotonic() + 60  # half-open ones are ended after 30 s
    while descriptors(pid) > base and time.monotonic() < left:
        await asyncio.sleep(1)
    after, middle = descriptors(pid), sizes[len(sizes) // 2]
    print(f"{clients} clients, {bad} of which misbehaved, for {minutes:g} minutes: {dict(crowd.counts)}")
    print("slowest: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in crowd.slowest.items()))
    print(f"memory {sizes[0]:.0f} MB at the start, {middle:.0f} in the middle, {sizes[-1]:.0f} at the end")
    print(f"descriptors {base} before, at most {most}, {after} after")
    faults = warm.faults + crowd.faults
    if after > base:
        faults.append(f"{after - base} descriptors were leaked")
    if sizes[-1] > FLAT * middle:
        faults.append(f"memory grew from {middle:.0f} to {sizes[-1]:.0f} MB")
    if not crowd.counts["latent frames"]:
        faults.append("nobody saw a frame")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.crowd", description=__doc__)
    parser.add_argument("model", nargs="?", default="", help="as of `phenaki play`")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=100)
    args = parser.parse_args()
    with serve(args.model) as (address, pid):
        faults = asyncio.run(run(address, pid, args.minutes, args.clients))
    for fault in faults:
        print(f"fault: {fault}")
    print("no fault" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
