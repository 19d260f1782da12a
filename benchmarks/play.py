"""Figures of `phenaki play`: first frame, key to frame, beats, sessions side by side, memory.

`python benchmarks/play.py MODEL` starts a server on this machine and measures, one after the other,

first      seconds from the connection to the first frame
key        seconds from a key (or a prompt, for a model without buttons) to the first frame that it took effect in, and
           to the first that differs from that of the same seed without it, as often as --samples says
page       the page in Chromium for --minutes: frames per second, beats missed, memory of server and page; once at the
           model's frame rate, once as fast as it comes
sessions   --clients programs, besides the page, for --minutes: frames per second and answer times of each

`--only key` measures one of them. Run it on an idle machine.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from phenaki.play.protocol import HEADER

PROMPT = "a red circle obeys the arrow keys"
MEASUREMENTS = ("first", "key", "page", "sessions")


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
        self.model = json.loads(self._socket.recv())
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
    """Resident MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]


def measure_first(address: str, samples: int) -> None:
    seconds = []
    for seed in range(samples):
        began = time.monotonic()
        with Client(address) as client:
            client.send(type="start", prompt=PROMPT, seed=seed)
            client.step()
            seconds.append(time.monotonic() - began)
    print(f"first frame: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s of {samples}")


def measure_key(address: str, samples: int, latent_frames: int = 8) -> None:
    rng = np.random.default_rng(0)
    with Client(address) as client:
        model = client.model
        buttons = [action["name"] for action in model["actions"] if action["kind"] == "button"]
        step = model["frames_per_step"] / model["fps"]
        taken: list[float] = []
        seconds: list[float] = []
        for seed in range(samples):
            steer = {"type": "press", "action": buttons[seed % len(buttons)]} if buttons else None
            steer = steer or {"type": "say", "prompt": "now it turns yellow"}
            start = {"type": "start", "prompt": PROMPT, "seed": seed}
            plain = play(client, start | {"fast": True, "id": 2 * seed + 1}, latent_frames)
            client.send(**start, id=2 * seed + 2)
            while client.step()[:2] != (1, 2 * seed + 2):
                pass
            client.step(), client.step()
            time.sleep(rng.uniform(0, step))
            sent = time.monotonic()
            client.send(**steer, id=2 * samples + seed + 1)
            number, differs = 0, False
            while not differs and number < latent_frames:
                number, applied, pixels = client.step()
                if applied == 2 * samples + seed + 1 and len(taken) == seed:
                    taken.append(time.monotonic() - sent)
                differs = not np.array_equal(pixels, plain[number])
            if differs:
                seconds.append(time.monotonic() - sent)
    for what, values in (("taken", taken), ("seen", seconds)):
        if values:
            print(
                f"key {what}: median {1000 * statistics.median(values):.0f} ms, p95 "
                f"{1000 * percentile(values, 0.95):.0f} ms, {len(values)} of {samples} keys; a latent frame lasts "
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
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        began = time.monotonic()
        page.goto(f"http://{address}/#prompt={PROMPT.replace(' ', '+')}")
        page.wait_for_selector("#screen[data-frames]")
        first = time.monotonic() - began
        if fast:
            page.check("#fast")
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
        browser.close()
    (t0, frames0, missed0, heap0, _), (t1, frames1, missed1, heap1, _) = samples[0], samples[-1]
    resident = [row[4] for row in samples]
    print(
        f"page, {'as fast as it comes' if fast else 'at the frame rate'}, {minutes:g} minutes: first frame {first:.2f} "
        f"s, {(frames1 - frames0) / (t1 - t0):.2f} frames a second, {missed1 - missed0} beats missed; page "
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
    for thread in threads:
        thread.start()
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
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    chosen = (args.only,) if args.only else MEASUREMENTS
    with serve(args.model, args.clients + 1) as (address, pid):
        if "first" in chosen:
            measure_first(address, min(10, args.samples))
        if "key" in chosen:
            measure_key(address, args.samples)
        if "page" in chosen:
            measure_page(address, pid, args.minutes, fast=False)
            measure_page(address, pid, args.minutes / 5, fast=True)
        if "sessions" in chosen:
            measure_sessions(address, pid, args.minutes, args.clients)


if __name__ == "__main__":
    main()
