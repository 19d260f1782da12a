"""The page of `phenaki play` in Chromium: what a person sees and does there, checked by pixels.

Skipped where playwright or Chromium is missing; `.ci/run` installs both.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, sync_playwright

from helpers.playing import PROMPT, bidirectional_model, causal_model, serve
from helpers.servers import CuttingProxy
from phenaki.cli import app
from phenaki.cli.replay import read_recording
from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig

CHROMIUM = shutil.which("chromium")
WAIT = 60.0  # seconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def base() -> Components:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(levels=(5, 5, 5))
    tokenizer = CViViT(
        CViViTConfig(image_size=(32, 32), width=64, spatial_layers=1, temporal_layers=1, quantizer=quantizer)
    )
    text_encoder = WordEncoder(WordEncoderConfig(width=64, layers=1))
    sizes = MaskedTransformerSizes(frames=11, width=64, layers=2)
    return Components(
        MaskedTransformer(sizes.config(tokenizer.spec, text_encoder.width)).eval(),
        tokenizer.eval(),
        text_encoder.eval(),
    )


@pytest.fixture(scope="module")
def model(base: Components) -> Phenaki:
    return causal_model(base)


@pytest.fixture(scope="module")
def address(model: Phenaki) -> Iterator[str]:
    with serve(model, sessions=4) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a context of its own; at the end, no page may have had an error."""
    contexts, errors = [], []

    def open_page(address: str, script: str = "", fragment: str = "", **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * WAIT)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: address in request.url or errors.append(f"asked for {request.url}"))
        if script:
            page.add_init_script(script)
        page.goto(f"http://{address}/{fragment}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def frames(page: Page) -> int:
    """Drawn so far."""
    return int(page.get_attribute("#screen", "data-frames") or 0)


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """The page forbids the eval that `wait_for_function` needs."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, page.inner_text("body")
        page.wait_for_timeout(20)


def wait_for_frames(page: Page, count: int) -> None:
    wait_until(page, lambda: frames(page) >= count)


def wait_for_text(page: Page, selector: str, text: str) -> None:
    wait_until(page, lambda: text in page.text_content(selector))


def picture(page: Page) -> tuple[int, np.ndarray]:
    """How many frames the video has up to the latent frame on the screen, and the frame there, uint8 (H, W, 3)."""
    number, height, width, rgba = page.evaluate(
        """() => {
            const {dataset, width, height} = document.getElementById("screen");
            const image = document.getElementById("screen").getContext("2d").getImageData(0, 0, width, height);
            return [Number(dataset.latentFrame), height, width, Array.from(image.data)];
        }"""
    )
    return 2 * number - 1, np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3]


def pause(page: Page) -> None:
    """Pause, and wait until what is on its way is drawn."""
    page.click("#pause")
    drawn = -1
    while drawn != frames(page):
        drawn = frames(page)
        page.wait_for_timeout(700)


def save(page: Page, path: Path) -> Path:
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(path)
    return path


def expected(model: Phenaki, path: Path) -> np.ndarray:
    """The frames of a saved video, (T, H, W, 3), made again."""
    return np.concatenate(list(read_recording(path).frames_of(model)))


def test_it_loads_and_plays(model: Phenaki, address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address)
    wait_for_frames(page, 5)
    assert page.inner_text("#caption") == PROMPT and "tiny" in page.title()
    assert page.inner_text("#keys").split() == ["←", "left", "→", "right", "1", "less", "mouse_x", "2", "more"] + [
        *("3", "less", "4", "more")
    ]
    pause(page)
    count, last = picture(page)
    world = model.play(PROMPT)
    made = np.concatenate([world.step() for _ in range((count + 1) // 2)])
    assert np.array_equal(made[count - 1], last)


def test_prompts_and_keys_change_the_pixels(
    model: Phenaki, address: str, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(address)
    wait_for_frames(page, 3)
    page.keyboard.press("/")
    page.keyboard.type("now it turns blue")
    page.keyboard.press("Enter")
    wait_for_text(page, "#caption", "now it turns blue")
    page.keyboard.down("ArrowLeft")
    assert page.locator(".key.lit").inner_text().split() == ["←", "left"]
    wait_for_frames(page, frames(page) + 4)
    wait_for_text(page, "#latency", "ms")
    page.keyboard.up("ArrowLeft")
    assert page.locator(".key.lit").count() == 0
    page.locator(".key", has_text="right").dispatch_event("pointerdown", {"pointerId": 1})
    wait_for_frames(page, frames(page) + 3)
    pause(page)
    count, last = picture(page)
    path = save(page, tmp_path / "saved.mp4")
    events = [(event.kind, event.name) for event in read_recording(path).events]
    assert events[:3] == [("say", "now it turns blue"), ("press", "left"), ("release", "left")]
    assert events[3] == ("press", "right")
    assert np.array_equal(expected(model, path)[count - 1], last)
    world = model.play(PROMPT)
    plain = np.concatenate([world.step() for _ in range((count + 1) // 2)])
    assert not np.array_equal(plain[count - 1], last)


def test_a_saved_video_is_repeated(
    model: Phenaki, address: str, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(address, fragment="#prompt=a+green+square&seed=5&temperature=0.5")
    wait_for_frames(page, 6)
    saved, again = save(page, tmp_path / "saved.mp4"), tmp_path / "again.mp4"
    model.save_pretrained(tmp_path / "tiny")
    result = CliRunner().invoke(
        app, ["generate", "--replay", str(saved), "--model", str(tmp_path / "tiny"), "-o", str(again)]
    )
    assert result.exit_code == 0, result.output
    assert again.read_bytes() == saved.read_bytes()
    recording = read_recording(saved)
    assert (recording.prompt, recording.seed, recording.options) == ("a green square", 5, {"temperature": 0.5})


def test_it_survives_a_reload(model: Phenaki, address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address)
    wait_for_frames(page, 2)
    page.fill("#prompt", "a blue star")
    page.press("#prompt", "Shift+Enter")
    page.fill("#seed", "7")
    page.press("#seed", "Enter")
    wait_for_text(page, "#caption", "a blue star")
    page.reload()
    wait_for_text(page, "#caption", "a blue star")
    wait_for_frames(page, 3)
    pause(page)
    count, last = picture(page)
    assert page.input_value("#seed") == "7"
    world = model.play("a blue star", seed=7)
    assert np.array_equal(np.concatenate([world.step() for _ in range((count + 1) // 2)])[count - 1], last)
    page.focus("#prompt")
    page.keyboard.press("ArrowUp")  # what was typed before
    assert page.input_value("#prompt") == "a blue star"


def test_two_tabs_have_videos_of_their_own(address: str, open_page: Callable[..., Page]) -> None:
    pages = [open_page(address, fragment=f"#prompt=a+red+circle&seed={seed}") for seed in (1, 2)]
    for page in pages:
        wait_for_frames(page, 3)
    for page in pages:
        wait_for_frames(page, frames(page) + 2)
    assert not np.array_equal(picture(pages[0])[1], picture(pages[1])[1])


def test_it_survives_a_dropped_connection(address: str, open_page: Callable[..., Page]) -> None:
    proxy = CuttingProxy(int(address.rpartition(":")[2]))
    page = open_page(proxy.url.removeprefix("http://"))
    wait_for_frames(page, 3)
    number = int(page.get_attribute("#screen", "data-latent-frame"))
    proxy.reachable = False  # a reconnection on an idle machine is quicker than this process sees the banner
    proxy.cuts.append(0)
    wait_for_text(page, "#banner", "The connection to the server is lost")
    proxy.reachable = True
    page.wait_for_selector("#banner", state="hidden")
    wait_for_frames(page, frames(page) + 4)
    assert int(page.get_attribute("#screen", "data-latent-frame")) > number  # the same video went on
    proxy.close()


def test_others_see_their_position_in_line(model: Phenaki, open_page: Callable[..., Page]) -> None:
    with serve(model, sessions=1) as address:
        first = open_page(address)
        wait_for_frames(first, 1)
        second = open_page(address)
        wait_for_text(second, "#overlay", "You are next")
        first.close()
        wait_for_frames(second, 2)
    wait_for_text(second, "#banner", "The server was stopped.")


def test_mistakes_are_said_on_the_page(address: str, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(address)
    wait_for_frames(page, 1)
    page.fill("#prompt", "word " * 200)
    page.press("#prompt", "Enter")
    wait_for_text(page, "#error", "the prompt has 200 words")
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.set_input_files("#picture", tmp_path / "no.png")
    wait_for_text(page, "#error", "10 bytes are no PNG")
    wait_for_frames(page, frames(page) + 2)


def test_a_picture_begins_a_video(model: Phenaki, address: str, open_page: Callable[..., Page], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (90, 60), (10, 200, 30)).save(tmp_path / "green.png")
    page = open_page(address)
    wait_for_frames(page, 1)
    page.set_input_files("#picture", tmp_path / "green.png")
    page.wait_for_selector("#clear")
    page.wait_for_timeout(500)
    wait_for_frames(page, 3)
    assert read_recording(save(page, tmp_path / "saved.mp4")).picture
    page.click("#clear")
    page.wait_for_selector("#clear", state="hidden")


def test_a_browser_without_websocket_hears_it(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address, script="delete window.WebSocket")
    wait_for_text(page, "#banner", "This browser has no WebSocket")


def test_a_bidirectional_model_says_that_it_plays_scenes(base: Components, open_page: Callable[..., Page]) -> None:
    with serve(bidirectional_model(base)) as address:
        page = open_page(address)
        wait_for_text(page, "#banner", "writes whole scenes of 10 frames")
        page.keyboard.press("/")
        page.keyboard.type(PROMPT)
        page.keyboard.press("Enter")
        wait_for_frames(page, 12)
        assert page.locator(".key").count() == 0


def test_the_keyboard_reaches_everything(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address)
    wait_for_frames(page, 1)
    page.focus("#stage")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert reached >= set("prompt pause start save seed dice guidance steps temperature fast picture".split())
    page.focus("#pause")
    page.keyboard.press("Space")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    page.keyboard.press("Space")
    page.focus("#temperature")
    page.keyboard.press("ArrowLeft")  # belongs to the slider there
    assert page.locator(".key.lit").count() == 0
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "stage"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    address: str, open_page: Callable[..., Page], scheme: str
) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    page = open_page(address, **options)
    wait_for_frames(page, 2)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    box = page.locator(".key", has_text="left").bounding_box()
    assert box["y"] + box["height"] < 740 and box["height"] >= 44  # within reach of a thumb
    page.locator(".key", has_text="left").tap()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    api = open_page(address, fragment="api.html", **options)
    api.wait_for_selector("text=POST /api/video")
    api.wait_for_selector("text=guidance_scale")
    assert api.evaluate("document.scrollingElement.scrollWidth") <= 360
