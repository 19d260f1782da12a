"""Without a terminal, progress is printed in lines."""

from __future__ import annotations

import pytest

from phenaki.core import progress
from phenaki.core.progress import track


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
