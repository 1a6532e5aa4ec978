"""A choice for all trials: the best of them, refused while the search lacks runs, and the table of its repeats."""

from __future__ import annotations

import dataclasses
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import dgbench
from dgbench import cli
from dgbench.collect import main as collect
from dgbench.core.errors import UserError
from dgbench.core.run import MODEL
from dgbench.plan.planfile import PlanTable, read_plan, write_plan
from dgbench.report.reader import read_results
from dgbench.report.repeats import choose_once, read_choices
from dgbench.report.selectors import SELECTORS
from dgbench.store.predictions import PredictedView, Predictions, path_of, to_bytes
from dgbench.store.run_folder import RunFolder
from tests.support.commands import sweep
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"


def test_the_best_draw_of_all_trials_is_chosen(tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=3, hparams=4, seed=1)
    (tmp_path / "sweep.json").touch()
    found = read_choices(tmp_path, 3, "training-domain")
    assert found.left == ["ERM+DiWA"]
    picks = dgbench.load_results(tmp_path).picks("training-domain")
    assert {choice.row for choice in found.choices} == {"ERM", "ERM+SWAD"}
    for choice in found.choices:
        own = picks[(picks.row == choice.row) & (picks.held_out == choice.fold.held_out[0])]
        best = own.loc[own["value"].idxmax()]
        assert choice.drawn == (best.hparams_seed, best.trial)


def test_a_search_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    folder = OWN["folder"](tmp_path, table, kind="train", hparams_seed=1, trial=0, held_out=("+90%",))
    (folder.path / "done").unlink()
    with pytest.raises(UserError) as caught:
        choose_once(read_results(tmp_path), SELECTORS["oracle"])
    first, second = caught.value.problems
    assert first.endswith("this one is not complete: launch it to its end first")
    assert second == "ERM [+90%], trial 0 hparams 1: waiting"
    with pytest.raises(UserError, match="validation-domain on ColoredMNIST: not available"):
        choose_once(read_results(tmp_path), SELECTORS["validation-domain"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--repeat_best", "0"], "--repeat_best 0 repeats nothing: it is a number of trials"),
        (["--selector", "oracle"], "--selector chooses for --repeat_best N: give that too"),
        (["--repeat_best", "2", "--algorithms", "SAM"], "--repeat_best adds to the search that the folder holds"),
        (["--repeat_best", "2"], "holds no sweep"),
        (["--repeat_best", "2", "--selector", "orakle"], "unknown selector 'orakle': did you mean 'oracle'?"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(sweep.main, ["launch", str(tmp_path / "none"), *words]) == 2
    assert why in capsys.readouterr().err


def repeat(root: Path, selector: str, trials: int) -> PlanTable:
    """Add finished trials of ERM's choices to a folder, as a launch would, with the accuracy 0.5 + trial / 100."""
    table = read_plan(root)
    runs, repeats = list(table.runs), []
    for choice in choose_once(read_results(root), SELECTORS[selector]):
        if choice.row != "ERM":
            continue
        folder = OWN["folder"](
            root,
            table,
            kind="train",
            hparams_seed=choice.drawn.seed,
            trial=choice.drawn.trial,
            held_out=choice.fold.held_out,
        )
        for trial in range(2, 2 + trials):
            run = dataclasses.replace(folder.run(), trial=trial)
            repeats.append((len(runs), MODEL))
            place = table.folds.index(choice.fold)
            runs.append(runs[0]._replace(id=run.id, fold=place, hparams_seed=run.hparams_seed, trial=trial))
            made = RunFolder(root, run.id)
            made.create(run)
            views = {str(v): {"accuracy": 0.5 + trial / 100, "loss": 1.0, "n": 10} for v in run.fold.evaluated}
            with patch("os.fsync"):
                made.append_records([{"step": 9, "predictor": MODEL, "views": views}])
                made.finish(OWN["SUMMARY"])
    table = dataclasses.replace(table, runs=tuple(runs), repeats={("ERM", SET, selector): tuple(repeats)})
    write_plan(root, table)
    return table


def test_the_wilds_style_shows_repeats_in_place_of_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    OWN["make"](tmp_path)
    before = dgbench.load_results(tmp_path)
    repeat(tmp_path, "oracle", 3)
    loaded = dgbench.load_results(tmp_path)
    assert loaded.table("oracle").equals(before.table("oracle")), "the search has its own tables"
    frame = loaded.table("oracle", style="wilds").query("dataset == @SET").set_index(["row", "column"])
    assert frame.loc[("ERM", "+90%"), "mean"] == pytest.approx(53)
    assert frame.loc[("ERM", "+90%"), "error"] == pytest.approx(np.std([52, 53, 54], ddof=1))
    searched = before.table("oracle", style="wilds").query("dataset == @SET").set_index(["row", "column"])
    assert frame.loc["ERM+SWAD"].equals(searched.loc["ERM+SWAD"]), "rows that are not repeated keep their search"
    other = loaded.table("training-domain", style="wilds")
    assert other.equals(before.table("training-domain", style="wilds")), "it repeats nothing"
    assert collect([str(tmp_path), "--selector", "oracle", "--error", "wilds"]) == 0
    said = capsys.readouterr().out
    assert "# chosen once: ERM: the hyperparameters that oracle chose in the search, repeated in each trial" in said
    trials = loaded.records.query("row == 'ERM'")["trial"]
    assert sorted(trials.unique()) == [0, 1, 2, 3, 4]


def test_metrics_and_costs_are_of_the_repeats_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The repeats alone keep predictions, and have times."""
    OWN["make"](tmp_path)
    table = repeat(tmp_path, "oracle", 3)
    kept = PredictedView(np.eye(2), np.array([0, 0]), np.arange(2))
    for place, _ in table.repeats["ERM", SET, "oracle"]:
        folder = RunFolder(tmp_path, table.runs[place].id)
        views = {str(view): kept for view in folder.run().fold.test}
        path = path_of(folder.path, MODEL, "last")
        path.parent.mkdir()
        path.write_bytes(to_bytes(Predictions(9, ("a", "b"), views)))
        (folder.path / "times.jsonl").write_text('{"seconds": 7}\n')
    words = [str(tmp_path), "--selector", "oracle", "--metrics", "worst_domain", "--format", "json"]
    values = {}
    for kind in ("standard-error", "wilds"):
        assert collect([*words, "--error", kind]) == 0
        (section,) = json.loads(capsys.readouterr().out)["sections"]
        (values[kind],) = section["metrics"]["ERM"]
    assert (values["wilds"]["mean"], values["wilds"]["trials"]) == (0.5, 3)
    assert values["standard-error"]["mean"] is None, "it shows the search"
    cost = dgbench.load_results(tmp_path).cost().set_index("row")
    assert cost["seconds"][["ERM", "ERM+SWAD", "all rows"]].tolist() == [63, 0, 63], "3 folds, 3 trials"


@pytest.fixture
def two(tmp_path: Path) -> Callable[[], list[str]]:
    def make() -> list[str]:
        for name, dataset in (("a", SET), ("b", "PACS")):
            (tmp_path / name).mkdir()
            OWN["make"](tmp_path / name, dataset=dataset)
        return [str(tmp_path / "a"), str(tmp_path / "b")]

    return make


def test_repeats_of_one_of_several_folders(two: Callable[[], list[str]]) -> None:
    folders = two()
    repeat(Path(folders[0]), "oracle", 3)
    frame = dgbench.load_results(*folders).table("oracle", style="wilds").set_index(["dataset", "row", "column"])
    assert frame.loc[(SET, "ERM", "+90%"), "mean"] == pytest.approx(53)
    assert not np.isnan(frame.loc[("PACS", "ERM", "+90%"), "mean"])


def test_a_repeat_that_is_not_done_is_lacking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path)
    table = repeat(tmp_path, "oracle", 3)
    (RunFolder(tmp_path, table.runs[-1].id).path / "done").unlink()
    assert collect([str(tmp_path), "--selector", "oracle"]) == 0
    assert "waiting" not in capsys.readouterr().out
    assert collect([str(tmp_path), "--selector", "oracle", "--error", "wilds"]) == 0
    assert "1 run waiting" in capsys.readouterr().out
