"""The log of a run: which one is meant, all of it, and how it goes on until the run ends."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli, logs
from dgbench.plan.planfile import read_plan
from dgbench.store import removal
from dgbench.store.lease import StopSignals
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
FAILURE = {"exit": 1, "error": "UserError: out of luck", "traceback": "", "log": ""}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    OWN["make"](tmp_path, hparams=1, trials=1)
    return tmp_path


@pytest.fixture
def folder(root: Path) -> RunFolder:
    """A training run with a log, not done."""
    found: RunFolder = OWN["folder"](root, read_plan(root), kind="train", held_out=("+90%",))
    (found.path / "done").unlink()
    found.log_path.write_bytes(b"first\nsecond\n")
    return found


def name_of(root: Path, folder: RunFolder) -> str:
    table = read_plan(root)
    return next(table.name(run) for run in table.runs if run.id == folder.id)


def test_a_run_is_named_by_id_beginning_or_name(
    root: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    name = name_of(root, folder)
    for words in ([folder.id], [folder.id[:12]], [name], name.split()):
        assert cli.run(logs.main, [str(root), *words]) == 0
        assert capsys.readouterr().out == "first\nsecond\n"


def test_a_run_that_is_unknown_ambiguous_or_silent_is_refused(
    root: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert cli.run(logs.main, [str(root), *words]) == cli.WRONG_INPUT
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        return said.err

    name = name_of(root, folder)
    assert "no run of the sweep is 'nothing': `dgbench status DIR --json` lists ids and names" in refused("nothing")
    assert f"did you mean {name!r}?" in refused(name.replace("hparams", "hparam"))
    assert "no run of the sweep is ''" in refused(" ")
    ids = sorted(run.id for run in read_plan(root).runs)
    first = next(a[0] for a, b in itertools.pairwise(ids) if a[0] == b[0])
    assert f"{first!r} stands for several runs: " in (several := refused(first))
    assert sum(id in several for id in ids) > 1
    other = next(id for id in ids if id != folder.id)
    assert "has no log: it has printed nothing yet" in refused(other)
    removal.remove(RunFolder(root, other))
    assert "has no log: it has not begun" in refused(other, "-f")
    assert "RUN" in refused()


def test_nothing_that_a_terminal_obeys_is_printed(
    root: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.log_path.write_bytes(b"\x1b[2Ja\tb\r10 %\r\nc \xe9 \xc3\xa9")
    assert cli.run(logs.main, [str(root), folder.id]) == 0
    assert capsys.readouterr().out == "\\x1b[2Ja   b\n10 %\nc \\xe9 é"


def test_a_log_is_read_once_in_whatever_pieces_it_comes(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    tail, found = logs.Tail(log), ""
    assert list(tail.new()) == []
    for piece in (b"a\r", b"\n\xc3", b"\xa9", b"", b"b"):
        with log.open("ab") as file:
            file.write(piece)
        found += "".join(tail.new())
    assert found == "a\néb"
    log.write_bytes(b"x")
    assert list(tail.new()) == ["x"], "begun anew, in the same file"
    log.unlink()
    assert list(tail.new()) == []
    log.write_bytes(b"yz")
    assert list(tail.new()) == ["yz"]


def test_following_goes_through_a_takeover_to_the_end(folder: RunFolder) -> None:
    tail, shown, told = logs.Tail(folder.log_path), list[str](), list[str]()
    lease = folder.claim(StopSignals())
    assert lease
    acts = iter(range(10))

    def wait(seconds: float) -> None:
        nonlocal lease
        act = next(acts)
        with folder.log_path.open("a") as file:
            file.write(f"{act}\n")
        if act == 0:
            lease.release()  # type: ignore[union-attr]
        elif act == 2:
            lease = folder.claim(StopSignals())
        elif act == 4:
            folder.finish(OWN["SUMMARY"])

    state = logs.follow(lambda: folder.state(1), lambda: shown.extend(tail.new()), told.append, wait)
    assert state is State.DONE
    assert "".join(shown) == "first\nsecond\n0\n1\n2\n3\n4\n"
    assert told == ["no process executes the run now; its log goes on when one does"], "said once"


def test_following_ends_with_a_failure_that_is_final(
    root: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.fail(FAILURE, 1, final=True)
    assert cli.run(logs.main, [str(root), "-f", folder.id]) == 1
    assert capsys.readouterr().out == "first\nsecond\n"


def test_ctrl_c_leaves_quietly(
    root: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(logs.follow, "__defaults__", (interrupt,))
    assert cli.run(logs.main, [str(root), folder.id, "--follow"]) == 130
    said = capsys.readouterr()
    assert said.out == "first\nsecond\n"
    assert said.err.splitlines()[-1] == "dgbench: interrupted"
