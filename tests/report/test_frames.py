"""Frames: they hold what the folder holds, and their digits are those of `collect`."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dgbench
from dgbench.collect import main as collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.frames import AVERAGES, SweepResults
from dgbench.report.selectors import SELECTORS
from dgbench.store.run_folder import RunFolder
from tests.support.places import ROOT, SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
CATEGORIES = ("row", "dataset", "held_out", "run", "predictor", "domain", "part", "metric")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=3)
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of DomainBed, two algorithms on VLCS, of which one run is not finished."""
    root: Path = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    for algorithm in ("ERM", "IRM"):
        for env in range(4):
            for trial in range(2):
                keys = [f"env{i}_{part}_acc" for i in range(4) for part in ("in", "out")]
                records = [
                    {"step": step, "mem_gb": 2.0, **dict(zip(keys, rng.random(8), strict=True))} for step in (0, 3)
                ]
                args = RunArgs("VLCS", algorithm, (env,), 0, trial).to_json(4, 0.2)
                folder = write_run(root, args, {"lr": 0.1, "batch_size": 32}, records)
    (folder / "done").unlink()
    return root


def collected(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """Return the cells of `collect --format json`, each with the data set and row that it is of."""
    assert collect([*words, "--format", "json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    return [
        {"dataset": table["dataset"] or "Averages", "row": row["row"], **cell}
        for table in tables
        for row in table["rows"]
        for cell in row["cells"]
    ]


def assert_same_digits(frame: pd.DataFrame, lines: list[dict[str, Any]]) -> None:
    """Hold a table's frame to the cells of the JSON, digit for digit."""
    assert len(frame) == len(lines) > 0
    for line, cell in zip(lines, frame.itertuples(), strict=True):
        assert [line[name] for name in ("dataset", "row", "column")] == [cell.dataset, cell.row, cell.column]
        for written, found in ((line["mean"], cell.mean), (line["error"], cell.error)):
            assert np.isnan(found) if written is None else written == found
        assert [line["n"] or 0, line["partial"], line["diverged"], len(line["gaps"])] == [
            cell.n, cell.partial, cell.diverged, cell.lacking,
        ]  # fmt: skip
        assert bool(cell.why) == (line["mean"] is None)


def test_records_are_those_of_the_folder(own: Path) -> None:
    frame = dgbench.load_results(own).records
    assert dict(frame.dtypes.astype(str)) == {
        **dict.fromkeys(CATEGORIES, "category"),
        **dict.fromkeys(("trial", "hparams_seed", "step"), "int32"),
        "value": "float64",
    }
    found = {}
    for line in frame.itertuples():
        found[line.run, line.predictor, line.step, f"{line.domain}/{line.part}", line.metric] = line.value
    assert len(found) == len(frame), "a line for each value"
    expected = {}
    for folder in (own / "runs").iterdir():
        for record in map(json.loads, (folder / "records.jsonl").read_text().splitlines()):
            for view, scores in record["views"].items():
                for metric in ("accuracy", "loss"):
                    expected[folder.name, record["predictor"], record["step"], view, metric] = scores[metric]
    assert found == expected


def test_records_say_which_row_fold_and_draw_they_are_of(own: Path) -> None:
    results = dgbench.load_results(own)
    frame = results.records
    assert list(frame["row"].cat.categories) == ["ERM", "ERM+SWAD", "ERM+DiWA"]
    assert frame.groupby("row", observed=True)["predictor"].unique().map(list).to_dict() == {
        "ERM": ["model"], "ERM+SWAD": ["SWAD"], "ERM+DiWA": ["model"],
    }  # fmt: skip
    for line in results.picks("oracle").itertuples():
        mine = frame[(frame.run == line.run) & (frame.predictor == line.predictor)]
        assert set(mine.held_out) == {line.held_out}
        assert (set(mine.trial), set(mine.hparams_seed)) == ({line.trial}, {line.hparams_seed})


@pytest.mark.parametrize("selector", ["training-domain", "leave-one-domain-out", "oracle"])
def test_tables_have_the_digits_of_collect(own: Path, selector: str, capsys: pytest.CaptureFixture[str]) -> None:
    frame = dgbench.load_results(own).table(selector)
    assert_same_digits(frame, collected(capsys, str(own), "--selector", selector))
    assert dict(frame.dtypes.astype(str)) | {"why": "str"} == {
        **dict.fromkeys(("dataset", "row", "column"), "category"), "mean": "float64", "error": "float64", "n": "int64",
        "partial": "bool", "diverged": "bool", "lacking": "int64", "why": "str",
    }  # fmt: skip


def test_a_notebook_of_ten_lines_prints_what_collect_prints(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = dgbench.load_results(own)
    table = results.table("training-domain").query(f"dataset == '{SET}'")
    table["text"] = table.apply(
        lambda cell: f"{cell['mean']:.1f}" + (f" +/- {cell['error']:.1f}" if cell["error"] >= 0 else ""), axis=1
    )
    wide = table.pivot(index="row", columns="column", values="text")
    printed = [[row, *cells] for row, *cells in wide.itertuples()]
    header = ["Algorithm", *wide.columns]
    capsys.readouterr()
    assert collect([str(own), "--selector", "training-domain", "--format", "domainbed"]) == 0
    lines = capsys.readouterr().out.split("-------- ")[1].splitlines()[1:5]
    assert [" ".join(line.split()) for line in lines] == [" ".join(row) for row in (header, *printed)]


def test_picks_from_records_by_hand(own: Path) -> None:
    """Choose by the mean on the training domains' `out` parts with pandas alone; it gives the selector's score."""
    results = dgbench.load_results(own)
    frame = results.records
    mine = frame[(frame.row == "ERM") & (frame.metric == "accuracy") & (frame.held_out == "+80%")]
    runs = ["trial", "hparams_seed", "step"]
    own_domain = mine.domain == "+80%"
    validation = mine[~own_domain & (mine.part == "out")].groupby(runs)["value"].mean().reset_index()
    best = (
        validation.sort_values(["value", "hparams_seed", "step"], ascending=[False, False, True])
        .groupby("trial")
        .first()
    )
    test = mine[own_domain & (mine.part == "in")].set_index(runs)["value"]
    picks = results.picks("training-domain").query("row == 'ERM' and held_out == '+80%'")
    for line in picks.itertuples():
        chosen = best.loc[line.trial]
        assert (line.hparams_seed, line.step) == (chosen.hparams_seed, chosen.step)
        assert line.score == test.loc[line.trial, chosen.hparams_seed, chosen.step]
        assert line.value == pytest.approx(chosen.value)


def test_picks_say_everything_that_was_chosen(own: Path) -> None:
    frame = dgbench.load_results(own).picks()
    assert len(frame) == 3 * 3 * 3
    columns = "row dataset held_out trial hparams_seed step run predictor score in_domain value"
    assert list(frame.columns) == f"{columns} diverged complete planned lacking hparams.lr".split()
    assert dict(frame.dtypes.astype(str))["step"] == "Int64"
    trained = frame[frame.row != "ERM+DiWA"]
    assert (trained["hparams.lr"] == 1e-3).all()
    assert frame[frame.row == "ERM+DiWA"]["hparams.lr"].isna().all(), "a merger has hyperparameters of its own"
    assert (trained.complete == 2).all()


def test_runs_say_state_cost_hyperparameters_and_setting(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    first, second, third, *_ = (run for run in table.runs if run.kind == "train")
    times = {"seconds": 2.5, "host": "one", "device": "cpu", "peak_bytes": None}
    (tmp_path / "runs" / first.id / "times.jsonl").write_text(f'{{"seconds": 9}}\n{json.dumps(times)}\n')
    failed = RunFolder(tmp_path, second.id)
    (failed.path / "done").unlink()
    failed.fail({"exit": 1, "error": "out of memory", "traceback": "", "log": ""}, 1, final=True)
    shutil.rmtree(tmp_path / "runs" / third.id)
    frame = dgbench.load_results(tmp_path).runs.set_index("run")
    assert len(frame) == len(table.runs)
    assert frame.loc[first.id, ["state", "seconds", "host", "device"]].tolist() == ["done", 2.5, "one", "cpu"]
    assert frame.loc[second.id, ["state", "why"]].tolist() == ["failed", "out of memory"]
    assert frame.loc[third.id, "state"] == "missing"
    assert pd.isna(frame.loc[third.id, "setting.steps"])
    assert frame.loc[first.id, "setting.steps"] == 10
    assert frame.loc[first.id, "hparams.lr"] == 1e-3
    assert not frame.loc[first.id, "setting.nonlinear_classifier"]
    assert {name: str(kind) for name, kind in frame.dtypes.items() if name.startswith("setting.")}[
        "setting.steps"
    ] == "Int64"
    assert frame["seconds"].dtype == frame["peak_bytes"].dtype == "float64"


def test_an_incomplete_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = OWN["make"](tmp_path)
    folder = OWN["folder"](tmp_path, table, kind="train", hparams_seed=1, trial=0, held_out=("+90%",))
    (folder.path / "done").unlink()
    results = dgbench.load_results(tmp_path)
    assert folder.id not in set(results.records.run)
    assert dict(results.runs.set_index("run").state)[folder.id] == "waiting"
    for partial in (False, True):
        words = ["--partial"] if partial else []
        lines = collected(capsys, str(tmp_path), "--selector", "training-domain", *words)
        assert_same_digits(results.table("training-domain", partial=partial), lines)
    (line,) = results.picks().query("row == 'ERM' and held_out == '+90%' and trial == 0").itertuples()
    assert (line.complete, line.planned, line.lacking, line.hparams_seed) == (1, 2, 1, 0)
    for run in (tmp_path / "runs").iterdir():
        shutil.rmtree(run)
    results = dgbench.load_results(tmp_path)
    assert len(results.records) == 0
    assert list(results.records.columns) == list(dgbench.load_results(tmp_path).records.columns)
    assert results.picks()["score"].isna().all()
    assert (results.table()["why"] != "").all()
    assert set(results.runs.state) == {"missing"}


def test_a_folder_of_domainbed(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = dgbench.load_results(foreign)
    assert_same_digits(results.table("oracle"), collected(capsys, str(foreign), "--selector", "oracle"))
    runs = results.runs
    assert sorted(runs.state.value_counts().to_dict().items()) == [("done", 15), ("unfinished", 1)]
    assert (runs["hparams.batch_size"] == 32).all()
    assert (runs["setting.steps"] == 4).all()
    assert runs["peak_bytes"].tolist() == [2.0 * 2**30] * 16
    records = results.records
    assert len(records) == 15 * 2 * 5
    assert (results.picks("oracle").dropna(subset=["score"])["hparams.lr"] == 0.1).all()


def test_several_folders(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, dataset="PACS", domains=("a", "b", "c"), trials=3)
    results = dgbench.load_results(own, tmp_path)
    assert_same_digits(results.table("oracle"), collected(capsys, str(own), str(tmp_path), "--selector", "oracle"))
    assert set(results.runs.folder) == {str(own), str(tmp_path)}
    assert set(results.table().dataset) == {SET, "PACS", AVERAGES}
    assert len(results.records) == sum(len(dgbench.load_results(root).records) for root in (own, tmp_path))
    assert set(results.picks()["hparams.lr"].dropna()) == {1e-3}


def test_several_test_domains_have_columns_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, domains=("a", "b", "c", "d"), protocol=Explicit(train=("a", "b"), test=("c", "d")))
    results = dgbench.load_results(tmp_path)
    assert list(results.table().query(f"dataset == '{SET}'").column.unique()) == ["c", "d", "c+d", "Avg"]
    assert_same_digits(results.table("oracle"), collected(capsys, str(tmp_path), "--selector", "oracle"))
    fold = ["--columns", "fold"]
    lines = collected(capsys, str(tmp_path), "--selector", "oracle", *fold)
    assert_same_digits(results.table("oracle", columns="fold"), lines)


def test_wrong_words_are_refused(own: Path, tmp_path: Path) -> None:
    results = dgbench.load_results(own)
    with pytest.raises(UserError, match="unknown selector 'orakle': did you mean 'oracle'"):
        results.picks("orakle")
    with pytest.raises(UserError, match="validation-domain on ColoredMNIST: not available"):
        results.table("validation-domain")
    with pytest.raises(UserError, match="takes the folder of a sweep"):
        dgbench.load_results()
    with pytest.raises(UserError, match="there is no such folder"):
        dgbench.load_results(tmp_path / "gone")


def test_it_says_what_it_holds(own: Path) -> None:
    results = dgbench.load_results(str(own))
    assert isinstance(results, SweepResults)
    assert repr(results) == f"<54 finished runs of {own}: 3 rows on 1 data sets>".replace("54", str(6 * 3 * 3))
    assert list(results.parts) == [str(own)]
    assert set(SELECTORS) >= {results.table().attrs["signatures"][0]["selector"]}


def test_no_torch_is_imported(own: Path) -> None:
    code = (
        f"import sys, dgbench; results = dgbench.load_results({str(own)!r}); "
        "assert 'pandas' not in sys.modules; results.records; results.runs; results.picks(); results.table(); "
        "print(sorted({'torch', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")
