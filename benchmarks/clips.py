"""Clips per second from h264 files: seeking by time stamps, reading complete files, and a minimal loop.

`python benchmarks/clips.py` makes mp4 files of 10 s, 640x360, 30 frames per second, a key frame every 24, and reads
clips of 11 frames of 128x128 at 8 frames per second from random positions, from memory, on one core, in three ways:

clip   `phenaki.media.reader.read_clip`
whole  all frames to arrays, then selected, resized and cropped
bare   a loop that seeks, decodes up to the last frame needed, and converts and resizes those needed with swscale

The ways alternate clip by clip and CPU time is measured, so that other load on the machine matters little.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable

import av
import numpy as np
from PIL import Image

from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView

SECONDS, RATE, HEIGHT, WIDTH, KEY_FRAMES = 10, 30, 360, 640, 24
VIEW = ClipView(frames=11, fps=8, size=(128, 128), random=True)
SCALED = (228, 128)  # width, height of 640x360 with a short side of 128

Read = Callable[[bytes, np.random.Generator], np.ndarray]


def make_video(seed: int) -> bytes:
    """A texture that pans, with a square of another one that moves over it."""
    rng = np.random.default_rng(seed)
    texture = np.asarray(Image.fromarray(rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)).resize((1000, 600)))
    square = np.asarray(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((96, 96)))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(KEY_FRAMES), "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(SECONDS * RATE):
            top, left = (int(110 * (1 + wave)) for wave in (np.sin(t / 40), np.cos(t / 25)))
            frame = texture[top : top + HEIGHT, left : left + WIDTH].copy()
            y, x = 3 * t % (HEIGHT - 96), 5 * t % (WIDTH - 96)
            frame[y : y + 96, x : x + 96] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def start_of(rng: np.random.Generator) -> float:
    return rng.random() * (SECONDS - VIEW.seconds)


def clip(data: bytes, rng: np.random.Generator) -> np.ndarray:
    return read_clip(data, ".mp4", VIEW, rng)


def whole(data: bytes, rng: np.random.Generator) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    instants = start_of(rng) + np.arange(VIEW.frames) / VIEW.fps
    picked = [Image.fromarray(frames[int(instant * RATE)]) for instant in instants]
    return np.stack([np.asarray(picture.resize(SCALED, Image.Resampling.BILINEAR))[:, 50:178] for picture in picked])


def bare(data: bytes, rng: np.random.Generator) -> np.ndarray:
    instants = start_of(rng) + np.arange(VIEW.frames) / VIEW.fps
    wanted = {int(instant * RATE) for instant in instants}
    frames = []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(instants[0] / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            index = round(frame.pts * stream.time_base * RATE)
            if index in wanted:
                frames.append(frame.to_ndarray(width=SCALED[0], height=SCALED[1], format="rgb24", threads=1))
            if index >= max(wanted):
                return np.stack(frames)
    raise RuntimeError("the file ended before the clip")


def seconds_per_clip(ways: dict[str, Read], videos: list[bytes], rounds: int) -> dict[str, float]:
    spent = dict.fromkeys(ways, 0.0)
    for turn in range(-1, rounds):  # the first one warms up
        for name, read in ways.items():
            began = time.process_time()
            read(videos[turn % len(videos)], np.random.default_rng(abs(turn)))
            spent[name] += (time.process_time() - began) * (turn >= 0)
    return {name: seconds / rounds for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="files that are made")
    parser.add_argument("--clips", type=int, default=48, help="clips that are read in each way")
    arguments = parser.parse_args()
    videos = [make_video(seed) for seed in range(arguments.videos)]
    libraries = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, numpy {np.__version__}"
    print(f"Python {platform.python_version()}, {libraries}; {arguments.clips} clips each, one thread")
    print(f"{len(videos)} files of {SECONDS} s, {sum(map(len, videos)) / len(videos) / 1e6:.2f} MB each")
    cost = seconds_per_clip({"clip": clip, "whole": whole, "bare": bare}, videos, arguments.clips)
    for name, seconds in cost.items():
        print(f"{name:6} {1 / seconds:7.1f} clips/s   {1000 * seconds:7.1f} ms a clip")
    print(f"clip / whole {cost['whole'] / cost['clip']:.1f} times the clips per second; the bar is 5")
    print(f"clip / bare  {100 * cost['bare'] / cost['clip']:.0f} % of the clips per second; the bar is 70 %")


if __name__ == "__main__":
    main()
