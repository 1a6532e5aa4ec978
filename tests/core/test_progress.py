from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from dgbench.core import progress as progress_module
from dgbench.core.progress import NO_DISPLAY, print_line, shown_progress, shown_training


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


def test_the_last_line_of_each_work_is_always_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        with shown_progress("PACS ") as progress:
            for done in range(5):
                progress("bytes", done, 0)
                progress("images", done, 9)
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "PACS 4 bytes",
        "PACS 4 of 9 images",
    ]
    with shown_progress("PACS ") as progress:
        progress("images", 9, 9)
    assert capsys.readouterr().err == "PACS 9 of 9 images\n"


def test_a_line_begins_with_what_it_is_about_and_ends_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    with shown_progress("folder:cat: [red] ") as progress:
        for seconds, done in ((0, 500), (48, 600), (72, 1000), (96, 1100), (240, 1990), (250, 2000)):
            now = 1000.0 + seconds
            progress("images decoded", done, 2000)
    assert capsys.readouterr().err.splitlines() == [
        "folder:cat: [red] 1,000 of 2,000 images decoded, 2:24 left",
        "folder:cat: [red] 1,990 of 2,000 images decoded, 0:02 left",
        "folder:cat: [red] 2,000 of 2,000 images decoded",
    ]


def test_on_a_terminal_there_is_a_bar_for_each_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with shown_progress("folder:cat: [red] ") as progress:
        for done in (0, 1000, 2000):
            progress("images", done, 2000)
        print_line("a line")
        progress("bytes", 12345, 0)
    assert "folder:cat: [red] images" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert "a line\n" in screen.getvalue()
    assert "2,000 of 2,000" in screen.getvalue()
    assert "12,345" in screen.getvalue()


def test_a_bar_of_an_unknown_total_claims_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with shown_progress() as progress:
        progress("bytes", 12345, 0)
    assert "12,345" in screen.getvalue()
    assert "%" not in screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown_is_neither_obeyed_nor_taken_for_markup(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", out)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress_module, "INTERVAL", 0)
    with shown_progress("folder:bomb: [red]a\x1b[5mb\x07\n") as progress:
        progress("images", 1, 2)
    print_line("caf\udce9 \x1b[5m :bomb: [red]")
    shown = out.getvalue()
    assert r"folder:bomb: [red]a\x1b[5mb\x07\n" in shown
    assert shown.endswith("caf\\xe9 \\x1b[5m :bomb: [red]\n")
    assert "\x1b[5m" not in shown
    assert "\x07" not in shown


def test_trainings_have_a_bar_each_with_their_latest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "dumb")  # without colors inside of the numbers
    with shown_training() as display:
        display.evaluated({"loss": 9.0})  # owed by a run that was stopped in it
        for steps in (3, 5):
            for done in range(1, steps + 1):
                display.stepped(done, steps)
            print("a line of the log", file=sys.stderr)
            display.evaluated({"loss": 0.25, "[red]": steps})
            display.bar.refresh()  # type: ignore[attr-defined]
        display.stepped(1, 7)
        display.evaluated({"loss": 0.125})
        display.bar.refresh()  # type: ignore[attr-defined]
        (task,) = display.bar.tasks  # type: ignore[attr-defined]
        assert (task.completed, task.total, task.fields["scores"]) == (1, 7, "loss 0.125")
    assert screen.getvalue().count("a line of the log\n") == 2


def test_away_from_a_terminal_trainings_have_no_display(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_training() as display:
        assert display is NO_DISPLAY
        display.stepped(1, 2)
        display.evaluated({"loss": 0.25})
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_the_bar_below_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Handle:
        def update(self, bar: Any) -> None:
            page = io.StringIO()
            Console(file=page, force_jupyter=False, width=120).print(bar)
            seen.append(page.getvalue())

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda bar, display_id: Handle())
    with shown_training() as display:
        display.stepped(1, 7)
        display.stepped(2, 7)
        display.evaluated({"loss": 0.125})
    assert len(seen) == 2, "the first move is drawn, the next within a quarter of a second is not, the last state is"
    assert "2/7" in seen[-1]
    assert "loss 0.125" in seen[-1]
