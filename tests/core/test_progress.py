from __future__ import annotations

import io
import sys

import pytest

from dgbench.core import progress as progress_module
from dgbench.core.progress import shown_progress


def test_away_from_a_terminal_a_line_is_printed_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shown_progress() as progress:
        progress("images", 1, 2000)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress_module, "INTERVAL", 0)
        progress("images", 1000, 2000)
        progress("bytes", 12345, 0)
    assert capsys.readouterr().err == "1,000 of 2,000 images\n12,345 bytes\n"


def test_on_a_terminal_there_is_a_bar_for_each_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with shown_progress() as progress:
        for done in (0, 1000, 2000):
            progress("images", done, 2000)
        progress("bytes", 12345, 0)
    assert "images" in screen.getvalue()
    assert "2,000 of 2,000" in screen.getvalue()
    assert "12,345" in screen.getvalue()
