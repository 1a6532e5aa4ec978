"""The command: what was chosen, and commands that plan the very runs that were chosen."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgbench import cli
from dgbench.best import main
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import MODEL, Run
from dgbench.core.site import Site
from dgbench.launchers.one_run import plan_one
from dgbench.launchers.prepare import prepare
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.reader import read_results
from dgbench.report.selectors import SELECTORS
from dgbench.store.run_folder import RunFolder
from dgbench.sweep import main as launch
from tests.support.commands import train
from tests.support.places import SUPPORT
from tests.support.shapes import make_shapes

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))


def finish(root: Path, run: Run, rng: np.random.Generator) -> None:
    """Write random records of a run, as if it had been executed."""
    folder = RunFolder(root, run.id)
    folder.create(run)
    models = [(MODEL, step) for step in (0, 9)] if run.kind != "adapt" else [(MODEL, 0), (MODEL, 9)]
    models += [(average.name, 9) for average in run.averages]
    folder.append_records(
        [
            {
                "step": step,
                "predictor": predictor,
                "views": {str(view): {"accuracy": rng.random(), "loss": 1.0, "n": 9} for view in run.views},
            }
            for predictor, step in models
        ]
    )
    folder.finish(OWN["SUMMARY"])


def sweep(root: Path, **asked: Any) -> Path:
    """A finished sweep over real digits whose records are random."""
    base = {"datasets": ["RotatedDigits"], "n_trials": 2, "n_hparams": 2, "test_envs": ["15", "75"]}
    planned = prepare(root, {**base, **asked}, Site(), Catalogue())
    planned.write()
    rng = np.random.default_rng(0)
    for run in planned.plan.runs:
        finish(root, run, rng)
    return root


def planned_again(command: str) -> set[str]:
    """Ids of the runs that a command would train."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("dgbench", "train")
    args = train.parser().parse_args(words)
    return {run.id for run in plan_one(args.algorithm, args.dataset, args.test, None, vars(args)).plan.runs}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "asked",
    [
        {"algorithms": ["ERM", "SAM+SWAD", "VREx+T3A"], "single_test_envs": True},
        {"algorithms": ["CORAL"], "preset": "domainbed-2024", "setting": {"steps": 20, "checkpoint_freq": 10}},
        {"algorithms": ["Fish", "SAM"], "hparams": {"batch_size": 16, "SAM": {"rho": 0.2}}, "single_test_envs": True},
        {
            "algorithms": ["ERM"],
            "test_envs": [],
            "single_source": True,
            "setting": {"optimizer": "sgd", "warmup_steps": 3},
        },
    ],
    ids=["averages and adapters", "DomainBed's preset, with pairs", "fixed values", "single source"],
)
def test_a_command_plans_the_run_that_was_chosen(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sweep(tmp_path / "sweep", **asked)
    monkeypatch.chdir(tmp_path)
    found = [json.loads(line) for line in said(capsys, str(root), "--json").splitlines()]
    folds = 6 if asked.get("single_source") else 2
    assert len(found) == len(asked["algorithms"]) * folds * 2
    for best in found:
        assert best["pick"]["run"] in planned_again(best["command"]), best["command"]
    commands = said(capsys, str(root), "--commands").splitlines()
    assert commands == [best["command"] for best in found]


def test_a_merged_rows_command_has_the_values_of_its_own_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams = {"rho": 0.1, "RotatedDigits": {"batch_size": 16, "SWAD": {"n_converge": 2}, "SMA": {"start": 2}}}
    root = sweep(tmp_path / "sweep", algorithms=["EoA", "ERM+DiWA", "SAM+SWAD"], hparams=hparams, single_test_envs=True)
    monkeypatch.chdir(tmp_path)
    found = {best["row"]: best for best in map(json.loads, said(capsys, str(root), "--json").splitlines())}
    given = {row: re.findall("--hparams '(.*?)'", best["command"]) for row, best in found.items()}
    assert json.loads(given["ERM+DiWA"][0]) == {"batch_size": 16}
    assert json.loads(given["EoA"][0]) == {"batch_size": 16, "SMA": {"start": 2}}
    for row in ("ERM+DiWA", "EoA"):
        assert launch([*shlex.split(found[row]["command"])[1:], "--dry_run"]) == 0


def test_a_command_names_the_place_of_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = make_shapes(tmp_path / "my photos", each=6)
    root = sweep(
        tmp_path / "sweep",
        algorithms=["ERM"],
        datasets=[f"folder:{photos}"],
        test_envs=["dim"],
        hparams={"batch_size": 8},
    )
    found = [json.loads(line) for line in said(capsys, str(root), "--json").splitlines()]
    assert found
    for best in found:
        assert best["pick"]["run"] in planned_again(best["command"]), best["command"]


def test_the_table_says_what_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sweep(tmp_path, algorithms=["ERM", "SAM"], single_test_envs=True)
    output = said(capsys, str(root), "--algorithms", "SAM", "--trial", "1", "--selector", "oracle")
    results = read_results(root)
    lines = output.splitlines()
    assert lines[0] == "chosen by oracle: " + SELECTORS["oracle"].reads
    assert lines[1].split() == [
        "Algorithm",
        "Dataset",
        "held",
        "out",
        "trial",
        "score",
        "step",
        "seed",
        "hyperparameters",
    ]
    for line, position in zip(lines[2:4], results.reported("RotatedDigits"), strict=True):
        pick = SELECTORS["oracle"].choose(results, "SAM", "RotatedDigits", position, 1).pick
        assert pick
        held_out = results.folds[position].held_out[0]
        cells = [
            "SAM",
            "RotatedDigits",
            held_out,
            "1",
            f"{100 * pick.score:.1f}",
            str(pick.step),
            str(pick.hparams_seed),
        ]
        assert line.split()[:7] == cells
        rho = RunFolder(root, pick.run).run().method.hparams["rho"]
        assert f"rho {rho:.4g}" in line
    assert [line for line in lines[4:] if line.startswith("# SAM RotatedDigits [")] == lines[5::2]
    assert all(line.startswith("dgbench train --algorithm SAM ") for line in lines[6::2])


def launched_again(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Ids of the runs that a command would launch."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("dgbench", "launch")
    assert launch(["launch", *words, "--dry_run", "--json"]) == 0
    return {json.loads(line)["id"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")}


def test_the_command_of_a_merged_model_launches_it_with_its_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"setting": {"steps": 20, "checkpoint_freq": 10}, "hparams": {"batch_size": 16}}
    root = sweep(tmp_path / "sweep", algorithms=["ERM+DiWA", "ERM+DiWA+T3A"], single_test_envs=True, **changes)
    monkeypatch.chdir(tmp_path)
    found = [json.loads(line) for line in said(capsys, str(root), "--json", "--trial", "1").splitlines()]
    assert [best["row"] for best in found] == ["ERM+DiWA"] * 2 + ["ERM+DiWA+T3A"] * 2
    for best in found:
        assert best["why"] == "it is merged from 2 runs (draws 0-1), which the command trains"
        ids = launched_again(best["command"], capsys)
        assert best["pick"]["run"] in ids
        assert {source.run for source in RunFolder(root, best["pick"]["run"]).run().inputs} <= ids
        assert len(ids) == (3 if best["row"] == "ERM+DiWA" else 4), "no more than that"


def test_what_no_flags_can_say_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sweep(tmp_path / "sweep", algorithms=["ERM+DiWA"], single_test_envs=True, space={"lr": "10^U(-4, -3)"})
    found = [json.loads(line) for line in said(capsys, str(root), "--json").splitlines()]
    assert {best["command"] for best in found} == {""}
    assert all("flags have no words for distributions of a sweep file" in best["why"] for best in found)


def test_each_row_shows_its_own_hyperparameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sweep(tmp_path, algorithms=["ERM", "ERM+SWAD", "ERM+SMA", "ERM+T3A"], single_test_envs=True)
    found = [json.loads(line) for line in said(capsys, str(root), "--json").splitlines()]
    entries = {best["row"]: {name.partition(".")[0] for name in best["hparams"] if "." in name} for best in found}
    assert entries == {"ERM": set(), "ERM+SWAD": {"SWAD"}, "ERM+SMA": {"SMA"}, "ERM+T3A": {"T3A"}}
    assert all("lr" in best["hparams"] for best in found)


def test_incomplete_choices_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = OWN["make"](tmp_path)
    for seed in (0, 1):
        folder = OWN["folder"](tmp_path, table, kind="train", hparams_seed=seed, trial=0, held_out=("+90%",))
        (folder.path / "done").unlink()
        words = [str(tmp_path), "--algorithms", "ERM", "--trial", "0"]
        output = said(capsys, *words)
        if seed == 0:
            assert "*" in output.splitlines()[2].split()[4]
            assert "# *: chosen among complete hyperparameter seeds alone" in output
        else:
            assert "[+90%]" not in output, "no draw is left to choose"


def test_a_folder_of_domainbed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        record = {f"env{i}_{part}_acc": (i + seed) / 9 for i in range(4) for part in ("in", "out")}
        args = RunArgs("VLCS", "ERM", (2,), seed, 0).to_json(5001, 0.2)
        write_run(tmp_path, args, {"lr": 0.1 + seed}, [{"step": 0, **record}])
    (command,) = said(capsys, str(tmp_path), "--commands").splitlines()
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "domainbed.scripts.train"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == {
        "--data_dir": "DATA", "--algorithm": "ERM", "--dataset": "VLCS", "--hparams_seed": "1", "--trial_seed": "0",
        "--seed": str(args["seed"]), "--steps": "5001", "--holdout_fraction": "0.2", "--task": "domain_generalization",
        "--test_envs": "2", "--hparams": '{"lr": 1.1}',
    }  # fmt: skip


def test_wrong_words_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path)
    words = [str(tmp_path), "--selector", "orakle", "--algorithms", "ERN", "--datasets", "MNIST"]
    assert cli.run(main, words) == 2
    told = capsys.readouterr().err
    for what in ("unknown selector 'orakle'", "unknown row 'ERN'", "unknown data set 'MNIST'"):
        assert what in told
