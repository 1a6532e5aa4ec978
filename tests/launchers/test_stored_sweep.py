"""A sweep folder of an earlier version, half done: the same ids, tables and states, and it is finished as it was begun.

`stored_sweep.tar.xz` was made at a136c53, before the engine was divided into packages: nine runs done, one stopped on
its way with a checkpoint, eight not begun; beside it what `collect` and `status` printed there.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest

from dgbench import collect, sweep
from dgbench.launchers.prepare import reopen
from dgbench.plan.planfile import read_plan
from dgbench.report.render import FORMATS
from dgbench.store.folder import Store
from dgbench.store.run_folder import State

STORED = Path(__file__).with_name("stored_sweep.tar.xz")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def records(root: Path) -> dict[str, bytes]:
    found = {}
    for run in read_plan(root).runs:
        path = root / "runs" / run.id / "records.jsonl"
        found[run.id] = path.read_bytes() if path.is_file() else b""
    return found


def test_the_same_declaration_plans_runs_of_the_same_ids(stored: Path) -> None:
    planned = reopen(stored / "sweep").plan
    assert [run.id for run in planned.runs] == [run.id for run in read_plan(stored / "sweep").runs]
    for id in Store(stored / "sweep").ids():
        assert Store(stored / "sweep").folder(id).run().id == id


def rows(form: str, printed: str) -> object:
    """The tables themselves, without what stands below them, which may come to say more."""
    if form == "csv":
        same = ("selector", "dataset", "metric", "row", "column", "mean", "error", "trials", "partial", "runs_lacking")
        return [[line[name] for name in same] for line in csv.DictReader(io.StringIO(printed))]
    if form == "json":
        content = json.loads(printed)
        cells = [cell for table in content["tables"] for row in table["rows"] for cell in row["cells"]]
        picks = [trial["pick"] for cell in cells for trial in cell["trials"]]
        numbers = [(cell["column"], cell["mean"], cell["error"], cell["gaps"]) for cell in cells]
        same = ("hparams_seed", "step", "run", "value", "score", "in_domain")
        return numbers, [pick and [pick[name] for name in same] for pick in picks], content["gaps"]
    marks = {"text": lambda line: not line.startswith("#"), "markdown": lambda line: line.startswith(("|", "#"))}
    return list(filter(marks.get(form, lambda line: " & " in line), printed.splitlines()))


@pytest.mark.parametrize("form", FORMATS)
def test_tables_are_what_they_were(form: str, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect.main(["--input_dir", str(stored / "sweep"), "--format", form]) == 0
    before = rows(form, (stored / "tables" / f"partial.{form}").read_text())
    assert before
    assert rows(form, capsys.readouterr().out) == before


def test_states_are_what_they_were(stored: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sweep.main(["status", "--output_dir", str(stored / "sweep"), "--json"])
    assert capsysbinary.readouterr().out == (stored / "tables" / "status.jsonl").read_bytes()


def test_what_was_begun_is_finished(stored: Path) -> None:
    """What is done stays; the run that was stopped goes on from its checkpoint; the others are executed."""
    root = stored / "sweep"
    store, before = Store(root), records(root)
    (stopped,) = (id for id, state in store.states(before, retries=0).items() if state is State.WAITING)
    words = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--test_envs", "75", "--single_test_envs"]
    words += ["--n_hparams", "2", "--n_trials", "2", "--steps", "1201", "--checkpoint_freq", "400"]
    words += ["--hparams", '{"backbone": "Linear", "batch_size": 32}', "--skip_confirmation", "--device", "cpu"]
    assert sweep.main(["launch", *words, "--output_dir", str(root)]) == 0
    after = records(root)
    assert set(store.states(before, retries=0).values()) == {State.DONE}
    assert all(after[id] == content for id, content in before.items() if content and id != stopped)
    assert before[stopped]
    assert after[stopped].startswith(before[stopped])
    assert len(after[stopped].splitlines()) > len(before[stopped].splitlines())
    assert store.folder(stopped).restarts() == []
    assert "step 0:" not in (root / "runs" / stopped / "log.txt").read_text().partition("stopped on request")[2]
