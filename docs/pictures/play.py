"""The picture of `phenaki play` in the README: light, dark, and on a phone.

`python docs/pictures/play.py rooms-64` starts a server and takes it; it needs playwright and Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

PROMPTS = {
    "rooms-64": (
        "the acid hall, an open view: the player walks forward",
        "the round court, an open view: the player turns around",
        "the brick room, an open view: the player walks forward",
    ),
    "shapes-64-causal": (
        "a large red circle obeys the arrow keys",
        "a big green cross follows the arrow keys, on a navy background",
        "a small blue star is steered by the arrow keys, over black",
    ),
}
PICTURE, GAP, HEIGHT = Path(__file__).with_name("play.png"), 24, 560
SECONDS = 12  # of play before the picture


def screenshot(browser: Browser, address: str, width: int, scheme: str, prompt: str, key: str) -> Image.Image:
    phone = width < 500
    page = browser.new_page(
        viewport={"width": width, "height": 844}, color_scheme=scheme, is_mobile=phone, has_touch=phone
    )
    page.set_default_timeout(120_000)
    page.goto(f"{address}/#prompt={prompt.replace(' ', '+')}&seed=3")
    page.wait_for_selector("#screen[data-frames]")
    for code in ("ArrowUp", key) * 2:
        page.keyboard.down(code)
        page.wait_for_timeout(1000 * SECONDS / 6)
        page.keyboard.up(code)
    page.keyboard.down(key)
    page.wait_for_timeout(1000 * SECONDS / 3)
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT), Image.Resampling.LANCZOS)


def main(model: str) -> None:
    with tempfile.TemporaryFile("w+") as log, sync_playwright() as driver:
        server = subprocess.Popen(
            [sys.executable, "-m", "phenaki", "play", model], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            server.stdout.readline()
            address = server.stdout.readline().split()[0]
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            views = ((1180, "light", "ArrowLeft"), (1180, "dark", "ArrowRight"), (390, "dark", "ArrowUp"))
            pictures = [
                screenshot(browser, address, width, scheme, prompt, key)
                for (width, scheme, key), prompt in zip(views, PROMPTS[model], strict=True)
            ]
            browser.close()
        finally:
            server.terminate()
            server.wait()
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    row, left = Image.new("RGB", (width, HEIGHT), "white"), 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    row.quantize(192, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
