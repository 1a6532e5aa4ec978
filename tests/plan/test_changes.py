"""`--set NAME=VALUE`: typed by what it names, refused where it contradicts, the same runs as by other flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import UserError
from dgbench.plan.changes import apply_changes, read_changes, refuse_conflicts
from tests.support.commands import sweep

ASKED = ("--datasets", "RotatedDigits", "--test_envs", "75", "--quick", "--dry_run")


def runs(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    """The runs of a launch of ERM+SWAD with these words."""
    where = ["launch", str(tmp_path / "new"), "--algorithms", "ERM+SWAD", *ASKED, "--json"]
    assert cli.run(sweep.main, [*where, *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> list[str]:
    where = ["launch", str(tmp_path / "new"), "--algorithms", "ERM+SWAD", *ASKED]
    assert cli.run(sweep.main, [*where, *words]) == 2
    return [line.removeprefix("dgbench: error: ") for line in capsys.readouterr().err.splitlines()]


def test_words_are_split_at_the_first_equals_sign() -> None:
    assert read_changes(["lr=1e-3", "teacher=a=b", "SWAD.n=", "lr=1e-3"]) == {
        "lr": "1e-3",
        "teacher": "a=b",
        "SWAD.n": "",
    }
    with pytest.raises(UserError) as caught:
        read_changes(["lr", "=3", "lr=1", "lr=2"])
    assert caught.value.problems == (
        "--set lr: write NAME=VALUE",
        "--set =3: write NAME=VALUE",
        "--set gives lr twice: 1 and 2",
    )


def test_texts_get_the_types_of_what_they_name(catalogue: Catalogue) -> None:
    rows = parse_rows(["SAM+SWAD", "KD"], catalogue)
    changes = {
        "batch_size": "16",
        "lr": "1",
        "rho": ".2",
        "teacher": "5",
        "steps": "1e3",
        "pretrained": "False",
        "channels_last": "true",
        "precision": "bf16",
        "SWAD.tolerance_ratio": "0.5",
        "nothing": "7",
        "nowhere.x": "y",
    }
    typed = apply_changes({"lr": 3.0, "SWAD": {"n_converge": 4}}, changes, rows, catalogue)
    expected = {
        "lr": 1.0,
        "SWAD": {"n_converge": 4, "tolerance_ratio": 0.5},
        "batch_size": 16,
        "rho": 0.2,
        "teacher": "5",
        "steps": "1e3",
        "pretrained": False,
        "channels_last": True,
        "precision": "bf16",
        "nothing": 7,
        "nowhere": {"x": "y"},
    }
    assert typed == expected
    assert [type(typed[name]) for name in expected] == [type(value) for value in expected.values()]


def test_names_given_twice_are_refused_unless_they_agree() -> None:
    refuse_conflicts({"lr": "0.1", "steps": "5"}, {"steps": 5}, {"lr": 0.1})
    with pytest.raises(UserError) as caught:
        refuse_conflicts({"lr": "0.1", "steps": "6", "SWAD.n": "3"}, {"steps": 5}, {"lr": 1, "SWAD": {"n": 4}})
    assert caught.value.problems == (
        "lr is given twice: 1 by --hparams, 0.1 by --set",
        "SWAD.n is given twice: 4 by --hparams, 3 by --set",
        "steps is given twice: 6 by --set, 5 by --steps",
    )


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["--image_size", "8", "--precision", "fp32"], {"image_size": 8}),
        (["--optimizer", "sgd", "--schedule", "cosine"], {"optimizer": "sgd", "schedule": "cosine"}),
        (["--no_pretrained"], {"pretrained": False}),
        (["--compile", "--backbone", "MLP"], {"compile": True, "backbone": "MLP"}),
        (["--set", "lr=0.01", "SWAD.tolerance_ratio=0.2"], {"lr": 0.01, "SWAD": {"tolerance_ratio": 0.2}}),
        (["--set", "lr=0.01", "--set", "clip_norm=1"], {"lr": 0.01, "clip_norm": 1.0}),
    ],
)
def test_flags_set_and_hparams_ask_for_the_same_runs(
    words: list[str], same: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_json = runs(capsys, tmp_path, "--hparams", json.dumps(same), "--device", "cpu")
    assert runs(capsys, tmp_path, *words) == by_json != runs(capsys, tmp_path)


def test_everything_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, tmp_path, "--set", "lr=fast", "stepps=5", "precison=bf16", "tolerance_ratio=0.2") == [
        "ERM: lr is a float, not 'fast'",
        "unknown hyperparameter 'stepps': did you mean 'steps'?",
        "unknown hyperparameter 'precison': did you mean 'precision'?",
        "tolerance_ratio is a hyperparameter of SWAD: --set SWAD.tolerance_ratio=0.2",
    ]
    assert refused(capsys, tmp_path, "--precision", "fp16", "--schedule", "stairs") == [
        "setting 'precision' is one of fp32, bf16, not 'fp16'",
        "setting 'schedule' is one of constant, cosine, linear, step, one_cycle, not 'stairs'",
    ]
    assert refused(capsys, tmp_path, "--set", "steps=5", "--steps", "6") == [
        "steps is given twice: 5 by --set, 6 by --steps"
    ]
    assert refused(capsys, tmp_path, "--set", "SMA.x=5") == [
        "unknown entry in --hparams or --set 'SMA': there are ERM, SWAD"
    ]


def test_quick_is_one_run_a_row_and_fold_whatever_a_file_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('algorithms = ["ERM", "SAM+SWAD"]\ndatasets = ["RotatedDigits"]\nn_hparams_from = 1\nn_trials = 2')
    words = ["launch", str(tmp_path / "new"), "--sweep", str(file), "--dry_run", "--json"]
    assert cli.run(sweep.main, [*words, "--quick"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    trained = [run for run in found if run["kind"] == "train"]
    assert {(run["hparams_seed"], run["trial_seed"]) for run in trained} == {(0, 0)}
    assert len(trained) == 2 * 6, "no pairs of domains"
    assert refused(capsys, tmp_path, "--n_trials", "3", "--n_hparams_from", "1") == [
        "--quick is one run of each row in each fold, with its defaults: leave out --n_hparams_from, --n_trials"
    ]


def test_set_wins_over_the_setting_and_hparams_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text("[setting]\nsteps = 7\n[hparams]\nbatch_size = 8\nlr = 0.5\nSWAD = {n_converge = 4}\n")
    changes = ["--set", "steps=9", "batch_size=16", "SWAD.tolerance_ratio=0.1"]
    mine = runs(capsys, tmp_path, "--sweep", str(file), *changes)
    same = {"steps": 9, "batch_size": 16, "lr": 0.5, "SWAD": {"n_converge": 4, "tolerance_ratio": 0.1}}
    assert mine == runs(capsys, tmp_path, "--hparams", json.dumps(same))
