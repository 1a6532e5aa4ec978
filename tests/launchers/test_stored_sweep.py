"""A sweep folder of an earlier version, half done: the same ids, tables and states, and it is finished as it was begun.

`stored_sweep.tar.xz` was made at a136c53, before the engine was divided into packages: nine runs done, one stopped on
its way with a checkpoint, eight not begun; beside it what `collect` and `status` printed there.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from dgbench import collect
from dgbench.launchers.prepare import reopen
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.state import State
from tests.support.commands import sweep

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


def numbers(printed: str) -> object:
    """The numbers of a JSON, without what stands beside them, which may come to say more."""
    content = json.loads(printed)
    cells = [cell for table in content["tables"] for row in table["rows"] for cell in row["cells"]]
    picks = [trial["pick"] for cell in cells for trial in cell["trials"]]
    same = ("hparams_seed", "step", "run", "value", "score", "in_domain")
    found = [(cell["column"], cell["mean"], cell["error"], cell["gaps"]) for cell in cells]
    return found, [pick and [pick[name] for name in same] for pick in picks], content["gaps"]


def without_averages(lines: list[str], heading: str) -> list[str]:
    """The lines of tables but for those of averages, which are shown for several data sets only."""
    kept, on = [], True
    for line in lines:
        if line.startswith(heading):
            on = "Averages" not in line
        elif on:
            kept.append(line)
    return kept


def rows(form: str, printed: str) -> list[list[str]]:
    """The cells of the data sets' tables, whatever is between and below them."""
    if form == "markdown":
        lines = without_averages(printed.splitlines(), "### ")
        return [line.strip("| ").split(" | ") for line in lines if line.startswith("|") and "---" not in line]
    lines = without_averages(printed.splitlines(), "-------- ")
    return [re.split(r"\s{2,}", line.strip()) for line in lines if re.search(r"\S\s{2,}\S", line) and line[0] != "#"]


def collected(root: Path, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert collect.main(["--input_dir", str(root), "--format", form]) == 0
    return capsys.readouterr().out


def test_numbers_and_choices_are_what_they_were(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (stored / "tables" / "partial.json").read_text()
    assert numbers(collected(stored / "sweep", "json", capsys)) == numbers(before)


def test_domainbeds_form_is_what_it_was(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (stored / "tables" / "partial.text").read_text().splitlines()
    now = collected(stored / "sweep", "domainbed", capsys).splitlines()
    tables = [[line for line in lines if not line.startswith("#")] for lines in (before, now)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_tables_are_what_they_were(form: str, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(form, (stored / "tables" / f"partial.{form}").read_text())
    assert before
    assert rows(form, collected(stored / "sweep", form, capsys)) == before


def test_a_row_a_trial_gives_the_means_that_were(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores: dict[tuple[str, ...], list[float]] = {}
    for line in csv.DictReader(io.StringIO(collected(stored / "sweep", "csv", capsys))):
        if line["score"]:
            where = (line["selector"], line["dataset"], line["row"], line["domain"])
            scores.setdefault(where, []).append(float(line["score"]))
    means = 0
    for line in csv.DictReader(io.StringIO((stored / "tables" / "partial.csv").read_text())):
        if line["mean"] and line["dataset"] != "Averages" and line["column"] != "Avg":
            own = scores[line["selector"], line["dataset"], line["row"], line["column"]]
            assert sum(own) / len(own) == pytest.approx(float(line["mean"]), abs=1e-9)
            means += 1
    assert means


def test_states_are_what_they_were(stored: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sweep.main(["status", "--output_dir", str(stored / "sweep"), "--json"])
    before = [json.loads(line) for line in (stored / "tables" / "status.jsonl").read_bytes().splitlines()]
    now = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [{name: line[name] for name in ("id", "name", "state")} for line in now] == before


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
    assert "after 1 of" not in (root / "runs" / stopped / "log.txt").read_text().partition("stopped on request")[2]
