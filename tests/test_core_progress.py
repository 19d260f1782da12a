"""Where there is no terminal, the progress is told in lines."""

from __future__ import annotations

import pytest

from phenaki.core import progress
from phenaki.core.progress import tracked


def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    items = []
    for item in tracked(range(1000, 2000), "packing"):
        items.append(item)
        seconds[0] += 0.125
    assert items == list(range(1000, 2000))
    assert capsys.readouterr().err == "packing: 480 of 1,000\npacking: 960 of 1,000\n"
    for _ in tracked(range(1000), "packing", shown=False):
        seconds[0] += 0.125
    assert not capsys.readouterr().err
