"""Watching a sweep: every cell with its counts, running steps with speed and time left, failures with their logs."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.report.picture import MOST_LINES, follow, lines
from dgbench.report.watch import Watch
from dgbench.store.lease import PROGRESS, StopSignals
from dgbench.store.run_folder import RunFolder
from tests.support.commands import sweep
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
FAILURE = {"exit": 1, "error": "UserError: out of\nluck", "traceback": "", "log": ""}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 training runs and 12 mergers of ERM, all finished."""
    OWN["make"](tmp_path)
    return tmp_path


def undone(root: Path, **wanted: Any) -> RunFolder:
    """A training run of the sweep, no longer done."""
    table = Watch(root).table
    folder: RunFolder = OWN["folder"](root, table, **{"kind": "train", "hparams_seed": 0, "trial": 0, **wanted})
    (folder.path / "done").unlink()
    return folder


def test_a_finished_sweep_has_a_line_a_cell(root: Path) -> None:
    watch = Watch(root)
    header, *cells = [line.split() for line in lines(watch.table, watch.look())]
    assert header == ["row", "data", "set", "held", "out", "done"]
    assert ["ERM", "ColoredMNIST", "+90%", "4"] in cells
    assert ["ERM+DiWA", "ColoredMNIST", "+90%", "2"] in cells
    assert len(cells) == 3 * 6, "three domains alone, and in three pairs"


def test_every_run_says_everything(root: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = undone(root, held_out=("+90%",))
    folder.log_path.write_text("a log\n")
    with folder.claim(StopSignals()) as lease:  # type: ignore[union-attr]
        number = lease.number
        host = folder.host()
    folder.fail(FAILURE, number, final=True)
    assert cli.run(sweep.main, ["status", str(root), "--json"]) == 1
    told = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert len(told) == 36
    (failed,) = (line for line in told if line["state"] == "failed")
    assert failed == {
        "id": folder.id,
        "name": failed["name"],
        "kind": "train",
        "algorithm": "ERM",
        "dataset": "ColoredMNIST",
        "held_out": ["+90%"],
        "trial": 0,
        "hparams_seed": 0,
        "state": "failed",
        "step": None,
        "steps": 10,
        "share": 1.0,
        "speed": None,
        "left": None,
        "host": host,
        "engine": "",
        "sign": failed["sign"],
        "seconds": None,
        "failure": "UserError: out of",
        "log": str(folder.log_path),
    }
    assert host
    done = next(line for line in told if line["state"] == "done")
    assert (done["step"], done["steps"], done["failure"]) == (10, 10, "")


def test_a_failed_run_is_listed_with_its_log(root: Path) -> None:
    folder = undone(root, held_out=("+90%",))
    folder.fail(FAILURE, 1, final=True)
    folder.log_path.write_text("a log\n")
    watch = Watch(root)
    *_, last = lines(watch.table, watch.look())
    assert last.startswith("failed: ERM on ColoredMNIST") or last.startswith("failed: ")
    assert last.endswith(f": UserError: out of (log: {folder.log_path})")


def test_speed_is_that_between_two_looks_and_gives_the_time_left(root: Path) -> None:
    now = [100.0]
    watch = Watch(root, lambda: now[0])
    folder = undone(root, held_out=("+90%",))
    with folder.claim(StopSignals()):  # type: ignore[union-attr]

        def at(step: int, seconds: float) -> Any:
            now[0] = seconds
            (folder.path / PROGRESS).write_bytes(orjson.dumps([step, 10]))
            (status,) = (status for status in watch.look() if status.id == folder.id)
            return status

        first = at(2, 100)
        assert (first.state, first.step, first.steps, first.speed, first.left) == ("running", 2, 10, None, None)
        second = at(6, 108)
        assert (second.speed, second.left) == (0.5, 8)
        assert at(6, 109).speed == 0.5, "a step that takes long is no standstill"
        assert at(1, 110).speed is None, "begun anew"
        assert at(3, 112).speed == 1
        assert f"step 3 of 10, 1 steps/s, 0:07 left, {folder.host()}" in "\n".join(lines(watch.table, watch.look()))


def test_before_its_own_speed_is_known_finished_runs_tell(root: Path) -> None:
    folder = undone(root, held_out=("+90%",))
    for run in Watch(root).table.runs:
        if run.kind == "train" and run.id != folder.id:
            place = RunFolder(root, run.id).path / "times.jsonl"
            place.write_bytes(orjson.dumps({"seconds": 5.0}) + b"\n")
    with folder.claim(StopSignals()):  # type: ignore[union-attr]
        (folder.path / PROGRESS).write_bytes(orjson.dumps([4, 10]))
        (status,) = (status for status in Watch(root).look() if status.id == folder.id)
    assert (status.speed, status.left) == (2.0, 3.0)


def test_watching_ends_when_nothing_is_left_to_wait_for(root: Path) -> None:
    folder = undone(root, held_out=("+90%",))
    pictures: list[str] = []

    def finish(seconds: float) -> None:
        folder.finish(OWN["SUMMARY"])

    assert follow(Watch(root), pictures.append, finish) is True
    assert len(pictures) == 2
    assert "waiting" in pictures[0]
    assert "waiting" not in pictures[1]
    undone(root, held_out=("+90%",)).fail(FAILURE, 1, final=True)
    assert follow(Watch(root), pictures.append, finish) is False


def test_a_picture_ends_with_the_nodes_and_their_pace(root: Path) -> None:
    folder = undone(root, held_out=("+90%",))
    pictures: list[str] = []
    lease = folder.claim(StopSignals())
    assert lease
    (folder.path / PROGRESS).write_bytes(orjson.dumps([4, 10]))

    def finish(seconds: float) -> None:
        lease.release()
        folder.finish(OWN["SUMMARY"])

    assert follow(Watch(root), pictures.append, finish) is True
    host = folder.host()
    *_, header, node = pictures[0].splitlines()
    assert header.split() == ["node", "task", "holds", "last", "sign", "finished"]
    assert node.split()[:2] == [host, "1"]
    *_, node, pace = pictures[1].splitlines()
    assert node.split()[:2] == [host, "0"]
    assert node.endswith(" 1")
    assert pace.startswith("throughput: ")
    assert pace.endswith(" runs an hour")


def test_watching_ends_where_what_is_left_reads_a_run_that_failed(root: Path) -> None:
    """Its mergers are missing, and no process will make them."""
    folder = undone(root, held_out=("+90%",))
    folder.fail(FAILURE, 1, final=True)
    table = Watch(root).table
    (place,) = (place for place, run in enumerate(table.runs) if run.id == folder.id)
    merge = next(run for run in table.runs if run.kind == "merge" and run.fold == table.runs[place].fold)
    watch = Watch(root)
    watch.table = replace(
        table, runs=tuple(run._replace(inputs=(place,)) if run.id == merge.id else run for run in table.runs)
    )
    (RunFolder(root, merge.id).path / "done").unlink()
    assert follow(watch, lambda picture: None, lambda seconds: pytest.fail("goes on")) is False


def test_lines_on_nodes_and_on_a_queue_follow_those_on_runs(
    root: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_queue", lambda args: ["slurm: 1 running (n1 1), 2 pending"])
    folder = undone(root, held_out=("+90%",))
    with folder.claim(StopSignals()):  # type: ignore[union-attr]
        assert cli.run(sweep.main, ["status", str(root), "--json"]) == 1
    *runs, node, queue = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert all("id" in run for run in runs)
    assert node == {"node": folder.host(), "engine": "", "running": 1, "sign": node["sign"]}
    assert queue == {"queue": "slurm: 1 running (n1 1), 2 pending"}


def test_the_command_watches(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(sweep.main, ["status", str(root), "--watch"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said, "no terminal"
    assert said.startswith("row  ") or said.startswith("row ")


def test_long_lists_are_cut_short(root: Path) -> None:
    for run in Watch(root).table.runs:
        if run.kind == "train":
            folder = RunFolder(root, run.id)
            (folder.path / "done").unlink()
            folder.fail(FAILURE, 1, final=True)
    watch = Watch(root)
    *_, last = lines(watch.table, watch.look())
    assert last == f"... and {24 - MOST_LINES} more, all of them with --json"


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        Watch(tmp_path)
