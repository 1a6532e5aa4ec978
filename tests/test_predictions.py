"""The command `predictions`: its lines give the accuracy of the tables, and what can't be listed is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgbench import load_results
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.predictions import main
from tests.support.in_process import execute_all, sweep_of

ROWS = ("ERM", "ERM+SMA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept") / "s"
    asked = {"datasets": ["ColoredDigits"], "test_envs": ["+80%", "-90%"], "single_test_envs": True, "n_hparams": 1}
    site = Site(device="cpu", save_predictions="chosen")
    execute_all(sweep_of(root, *ROWS, site=site, **asked, n_trials=2, setting={"steps": 13, "checkpoint_freq": 4}))
    return root


def test_lines_give_the_accuracy_of_the_table(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder), "--selector", "training-domain", "--output", str(tmp_path / "p.csv")]) == 0
    lines = pd.read_csv(tmp_path / "p.csv", dtype={"label": str, "predicted": str})
    lines["right"] = lines["label"] == lines["predicted"]
    place = ["row", "held_out", "trial"]
    found = lines.groupby([*place, "domain", "part"])["right"].mean().groupby(place).mean()
    picks = load_results(folder).picks("training-domain").astype({"row": str, "held_out": str}).set_index(place)
    np.testing.assert_allclose(found.to_numpy(), picks["score"].loc[found.index].to_numpy(), rtol=1e-12)
    assert len(found) == 8
    assert lines["probability"].between(0.5, 1).all(), "of the larger of two classes"
    assert set(lines["run"]) == set(picks["run"])


def test_choices_without_predictions_are_left_out_aloud(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    runs = load_results(copy).picks("training-domain")
    gone = runs[(runs["row"] == "ERM") & (runs["held_out"] == "+80%") & (runs["trial"] == 1)]["run"].iloc[0]
    shutil.rmtree(copy / "runs" / gone / "predictions")
    assert main([str(copy), "--row", "ERM", "--test", "+80%", "--selector", "training-domain"]) == 0
    printed = capsys.readouterr()
    assert {line.split(",")[3] for line in printed.out.splitlines()[1:]} == {"0"}
    assert printed.err == (
        "left out: ERM on ColoredDigits [+80%] trial 1: its predictions are not kept: launch with --save_predictions\n"
    )
    with pytest.raises(UserError, match="trial 1: its predictions are not kept"):
        main([str(copy), "--row", "ERM", "--test", "+80%", "--trial", "1", "--selector", "training-domain"])


@pytest.mark.parametrize("selector", ["leave-one-domain-out", "validation-domain"])
def test_a_selector_that_cannot_answer_chooses_nothing(folder: Path, selector: str) -> None:
    with pytest.raises(UserError) as caught:
        main([str(folder), "--selector", selector])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{selector} on ColoredDigits: not available, the sweep ")


def test_unknown_names_are_refused_together(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        main([str(folder), "--row", "EMR", "--test", "sketch", "--trial", "9", "--datasets", "PACS"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--row", "--datasets", "--test", "--trial"]
