"""Figures of `phenaki play`: first frame, key to frame, beats, sessions side by side, memory.

`python benchmarks/play.py MODEL` measures, one after the other,

world      frames per second and memory of `world.step()` in this process, every minute for --minutes
batch      --clients worlds that step one by one beside as many that step in one batch, in this process
first      seconds from opening the page in Chromium, and from a client's connection, to the first frame
key        seconds from a key, and from a prompt, to the first frame that it took effect in, and to the first that
           differs from that of the same seed without it, --samples times each
page       the page in Chromium for --minutes at the model's frame rate, then for --minutes as fast as it comes: frames
           per second, beats missed, memory of server and page
sessions   the page and --clients programs for --minutes: frames per second and answer times of each

`--only key` measures one of them. All but the first two start a server. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

import phenaki
from phenaki.pipeline import step_together
from phenaki.play.protocol import HEADER

PROMPT = "a red circle obeys the arrow keys"
MEASUREMENTS = ("world", "batch", "first", "key", "page", "sessions")


@contextmanager
def serve(model: str, sessions: int) -> Iterator[tuple[str, int]]:
    """Address and process of a server."""
    command = [sys.executable, "-m", "phenaki", "play", model, "--sessions", str(sessions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        print(server.stdout.readline().strip())
        try:
            yield server.stdout.readline().split()[0].removeprefix("http://"), server.pid
        finally:
            server.terminate()


class Client:
    """One session."""

    def __init__(self, address: str) -> None:
        self._connection = connect(f"ws://{address}/api/play", max_size=None, compression=None)

    def __enter__(self) -> Client:
        self._socket = self._connection.__enter__()
        self.model, self.id = json.loads(self._socket.recv()), 0
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__(None, None, None)

    def send(self, **message: Any) -> None:
        self._socket.send(json.dumps(message))

    def step(self) -> tuple[int, int, np.ndarray]:
        """Number of a latent frame, id of the last message in it, and its pixels."""
        while isinstance(message := self._socket.recv(timeout=60), str):
            if json.loads(message)["type"] in ("error", "end"):
                raise RuntimeError(message)
        number, applied, *_ = HEADER.unpack_from(message)
        self.send(type="ack", latent_frame=number)
        return number, applied, np.frombuffer(message, np.uint8, offset=HEADER.size)


def memory(pid: int) -> float:
    """Resident MB of a process and its children."""
    with suppress(FileNotFoundError, ProcessLookupError):  # a child may have ended
        status = Path(f"/proc/{pid}/status").read_text()
        own = int(status.split("VmRSS:")[1].split()[0]) / 1024
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").open()]
        return own + sum(memory(int(child)) for line in children for child in line.split())
    return 0.0


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]


def measure_world(model: str, minutes: float) -> None:
    world = phenaki.load(model).play(PROMPT)
    for _ in range(8):
        world.step()
    end = time.monotonic() + 60 * minutes
    while (began := time.monotonic()) < end:
        frames, until = 0, min(began + 60, end)
        while time.monotonic() < until:
            frames += len(world.step())
        rate = frames / (time.monotonic() - began)
        print(f"world: {rate:.2f} frames a second, {memory(os.getpid()):.0f} MB", flush=True)


def measure_batch(model: str, count: int, steps: int = 20) -> None:
    loaded = phenaki.load(model)
    alone, together = ([loaded.play(PROMPT, seed=seed, steps=4) for seed in range(count)] for _ in range(2))
    seconds: dict[str, list[float]] = {"one by one": [], "in one batch": []}
    for _ in range(8 + steps):
        began = time.thread_time()
        for world in alone:
            world.step()
        middle = time.thread_time()
        step_together(together)
        seconds["one by one"].append(middle - began)
        seconds["in one batch"].append(time.thread_time() - middle)
    found = {name: statistics.median(values[8:]) for name, values in seconds.items()}
    for name, value in found.items():
        print(f"{count} worlds {name}: {1000 * value / count:.1f} ms of one core for a latent frame of each")
    print(f"ratio: {found['one by one'] / found['in one batch']:.2f}")


def measure_first(address: str, samples: int) -> None:
    for who, first in (("page", first_of_page), ("client", first_of_client)):
        seconds = first(address, samples)
        print(
            f"{who}, first frame: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s of {samples}"
        )


def first_of_client(address: str, samples: int) -> list[float]:
    seconds = []
    for seed in range(samples):
        began = time.monotonic()
        with Client(address) as client:
            client.send(type="start", prompt=PROMPT, seed=1000 + seed)
            client.step()
            seconds.append(time.monotonic() - began)
    return seconds


def first_of_page(address: str, samples: int) -> list[float]:
    seconds = []
    with chromium() as browser:
        for seed in range(samples):
            page = browser.new_context().new_page()
            began = time.monotonic()
            open_page(page, address, seed)
            seconds.append(time.monotonic() - began)
            page.context.close()
    return seconds


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(page: Any, address: str, seed: int = 0) -> None:
    """Open it, and wait for its first frame."""
    page.goto(f"http://{address}/#prompt={PROMPT.replace(' ', '+')}&seed={seed}")
    page.wait_for_selector("#screen[data-frames]")


def measure_key(address: str, samples: int) -> None:
    with Client(address) as client:
        buttons = [action["name"] for action in client.model["actions"] if action["kind"] == "button"]
        if buttons:
            measure_steering(client, "key", [{"type": "press", "action": button} for button in buttons], samples)
        measure_steering(client, "prompt", [{"type": "say", "prompt": "now it turns yellow"}], samples)


def measure_steering(
    client: Client, what: str, inputs: list[dict[str, str]], samples: int, latent_frames: int = 8
) -> None:
    rng, model = np.random.default_rng(0), client.model
    step = model["frames_per_step"] / model["fps"]
    taken: list[float] = []
    seconds: list[float] = []
    for seed in range(samples):
        client.id += 3
        start = {"type": "start", "prompt": PROMPT, "seed": seed}
        plain = play(client, start | {"fast": True, "id": client.id}, latent_frames)
        client.send(**start, id=client.id + 1)
        while client.step()[:2] != (1, client.id + 1):
            pass
        client.step(), client.step()
        time.sleep(rng.uniform(0, step))
        sent = time.monotonic()
        client.send(**inputs[seed % len(inputs)], id=client.id + 2)
        number, differs = 0, False
        while not differs and number < latent_frames:
            number, applied, pixels = client.step()
            if applied == client.id + 2 and len(taken) == seed:
                taken.append(time.monotonic() - sent)
            differs = not np.array_equal(pixels, plain[number])
        if differs:
            seconds.append(time.monotonic() - sent)
    for when, values in (("taken", taken), ("seen", seconds)):
        if values:
            print(
                f"{what} {when}: median {1000 * statistics.median(values):.0f} ms, p95 "
                f"{1000 * percentile(values, 0.95):.0f} ms, {len(values)} of {samples}; a latent frame lasts "
                f"{1000 * step:.0f} ms"
            )


def play(client: Client, start: dict[str, Any], latent_frames: int) -> dict[int, np.ndarray]:
    """The frames of a video that begins, by their number."""
    client.send(**start)
    frames: dict[int, np.ndarray] = {}
    while latent_frames not in frames:
        number, applied, pixels = client.step()
        if applied == start["id"]:
            frames[number] = pixels
    return frames


def measure_page(address: str, pid: int, minutes: float, fast: bool) -> None:
    with chromium() as browser:
        page = browser.new_page()
        open_page(page, address)
        if fast:
            page.check("#fast")
        watch(page, pid, minutes, f"page, {'as fast as it comes' if fast else 'at the frame rate'}")


def watch(page: Any, pid: int, minutes: float, what: str) -> None:
    """Print what becomes of an open page, after five seconds in which it settles."""
    page.wait_for_timeout(5000)
    client = page.context.new_cdp_session(page)

    def sample() -> tuple[float, int, int, float, float]:
        client.send("HeapProfiler.collectGarbage")
        heap = client.send("Runtime.getHeapUsage")["usedSize"] / 2**20
        data = page.evaluate("({...document.getElementById('screen').dataset})")
        return time.monotonic(), int(data["frames"]), int(data["missed"]), heap, memory(pid)

    samples = [sample()]
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        page.wait_for_timeout(min(15_000, 1000 * max(0.1, end - time.monotonic())))
        samples.append(sample())
    (t0, frames0, missed0, heap0, _), (t1, frames1, missed1, heap1, _) = samples[0], samples[-1]
    resident, rate = [row[4] for row in samples], (frames1 - frames0) / (t1 - t0)
    print(
        f"{what}, {minutes:g} minutes: {rate:.2f} frames a second, {missed1 - missed0} beats missed; page "
        f"{heap0:.1f} to {heap1:.1f} MB, server {resident[0]:.0f} to {resident[-1]:.0f} MB, at most {max(resident):.0f}"
    )


def measure_sessions(address: str, pid: int, minutes: float, clients: int) -> None:
    results: list[str | None] = [None] * clients

    def run(number: int) -> None:
        with Client(address) as client:
            client.send(type="start", prompt=PROMPT, seed=number)
            previous, latest, waits, frames, asked = 0, time.monotonic(), [], 0, 0
            began, sent = time.monotonic(), 0.0
            while time.monotonic() < began + 60 * minutes:
                latent, applied, pixels = client.step()
                if previous and latent != previous + 1:
                    raise RuntimeError(f"latent frame {latent} after {previous}")
                previous, latest = latent, time.monotonic()
                frames += client.model["frames_per_step"] if latent > 1 else 1
                if asked and applied == asked and sent:
                    waits.append(latest - sent)
                    sent = 0.0
                if not sent and latent % 16 == 0:
                    asked, sent = asked + 1, time.monotonic()
                    client.send(type="adjust", option="temperature", value=0.4, id=asked)
            longest = f"{max(waits):.2f}" if waits else "-"
            results[number] = f"{frames / (latest - began):.1f} frames a second, slowest answer {longest} s"

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    before = memory(pid)
    with chromium() as browser:
        page = browser.new_page()
        open_page(page, address, seed=clients)
        for thread in threads:
            thread.start()
        watch(page, pid, max(0.0, minutes - 5 / 60), "the page beside them")
    for thread in threads:
        thread.join()
    for number, result in enumerate(results):
        print(f"session {number}: {result or 'failed'}")
    print(f"{clients} sessions, {minutes:g} minutes: server {before:.0f} to {memory(pid):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", choices=MEASUREMENTS)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=7)
    args = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    chosen = (args.only,) if args.only else MEASUREMENTS
    if "world" in chosen:
        measure_world(args.model, args.minutes)
    if "batch" in chosen:
        measure_batch(args.model, args.clients)
    if not {"first", "key", "page", "sessions"} & {*chosen}:
        return
    with serve(args.model, args.clients + 1) as (address, pid):
        if "first" in chosen:
            measure_first(address, min(10, args.samples))
        if "key" in chosen:
            measure_key(address, args.samples)
        if "page" in chosen:
            measure_page(address, pid, args.minutes, fast=False)
            measure_page(address, pid, args.minutes, fast=True)
        if "sessions" in chosen:
            measure_sessions(address, pid, args.minutes, args.clients)


if __name__ == "__main__":
    main()
