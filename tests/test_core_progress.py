"""Without a terminal, progress is printed in lines."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from phenaki.core import progress
from phenaki.core.progress import format_duration, progress_bar, track


@pytest.mark.parametrize("width", [80, 120])
def test_step_rate_and_time_left_come_before_the_details(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress_bar(details=True) as bar:
        task = bar.add_task("evaluating", total=12_000, details=" ".join(f"metric{i} 0.1234" for i in range(30)))
        bar.update(task, completed=1500)
    line = written.getvalue().splitlines()[-2].rpartition("\x1b[2K")[2]
    assert len(line) <= width and re.match(r"evaluating +1500/12000 [\d.]+/s [-\d:]+ .*metric0 .*…$", line), line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (562, "9 min 22 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (8000, "2 h 13 min"),
        (86400 * 12 + 3600 * 5 + 99, "12 d 5 h"),
    ],
)
def test_durations_in_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_without_a_terminal_progress_is_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    items = []
    for item in track(range(1000, 2000), "packing"):
        items.append(item)
        seconds[0] += 0.125
    assert items == list(range(1000, 2000))
    assert capsys.readouterr().err == "packing: 480 of 1,000\npacking: 960 of 1,000\n"
    for _ in track(range(1000), "packing", visible=False):
        seconds[0] += 0.125
    assert not capsys.readouterr().err
