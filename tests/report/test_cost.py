"""The cost of rows: times of attempts added up over runs and all that they need."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench.collect import main
from dgbench.report.cost import ALL, costs
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.folders import combine, open_each
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
STEPS, TRAINED, MERGED = 10, 24, 12
"""Steps of a run, and runs of the sweep below: 3 folds and 3 pairs, 2 trials, 2 draws."""


def spend(path: Path, *seconds: float, device: str = "cpu", **more: Any) -> None:
    lines = [json.dumps({"seconds": each, "device": device, "peak_bytes": None, **more}) for each in seconds]
    path.joinpath("times.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    table = OWN["make"](tmp_path)
    for run in table.runs:
        spend(tmp_path / "runs" / run.id, *((3.0, 1.0) if run.kind == "train" else (0.5,)))
    return tmp_path


def by_row(*folders: Path) -> dict[str, Any]:
    parts = open_each(folders)
    return {cost.row: cost for cost in costs(combine(parts), parts)}


def test_a_row_costs_all_attempts_of_all_that_it_needs(own: Path) -> None:
    found = by_row(own)
    assert list(found) == ["ERM", "ERM+SWAD", "ERM+DiWA", ALL]
    assert (found["ERM"].runs, found["ERM"].seconds) == (TRAINED, 4.0 * TRAINED)
    assert found["ERM+SWAD"].seconds == found["ERM"].seconds, "an average comes with its run"
    assert (found["ERM+DiWA"].runs, found["ERM+DiWA"].seconds) == (TRAINED + MERGED, 4.0 * TRAINED + 0.5 * MERGED)
    assert found[ALL].seconds == found["ERM+DiWA"].seconds, "each run once"
    assert found["ERM"].steps_per_second == found["ERM+DiWA"].steps_per_second == STEPS / 4
    assert (found["ERM"].gpu_seconds, found["ERM"].peak_bytes, found["ERM"].host_bytes) == (0.0, None, None)


def test_gpus_and_memory(own: Path) -> None:
    folders = sorted((own / "runs").iterdir())
    for number, folder in enumerate(folders):
        spend(folder, 2.0, device="NVIDIA H200", peak_bytes=number << 20, host_bytes=1 << 30)
    whole = by_row(own)[ALL]
    assert whole.gpu_seconds == whole.seconds == 2.0 * len(folders)
    assert (whole.peak_bytes, whole.host_bytes) == ((len(folders) - 1) << 20, 1 << 30)


def test_runs_without_a_time_are_counted_and_said(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run, other, *_) = by_run = sorted(path for path in (own / "runs").iterdir())
    assert len(by_run) == TRAINED + MERGED
    run.joinpath("times.jsonl").unlink()
    other.joinpath("times.jsonl").write_text("torn {\n")
    assert (by_row(own)[ALL].untimed, by_row(own)[ALL].runs) == (2, TRAINED + MERGED)
    assert main([str(own), "--cost"]) == 0
    assert "# 2 runs have no recorded time and are left out" in capsys.readouterr().out


def test_unfinished_runs_cost_nothing_yet(own: Path) -> None:
    table = OWN["folder"](own, open_plan(own), kind="train", hparams_seed=0, trial=0, held_out=("+90%",))
    (table.path / "done").unlink()
    assert by_row(own)["ERM"].runs == TRAINED - 1


def open_plan(root: Path) -> Any:
    from dgbench.plan.planfile import read_plan

    return read_plan(root)


def test_a_run_in_two_folders_counts_once(own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    OWN["make"](other)  # without times
    assert by_row(own, other)[ALL] == by_row(own)[ALL]


def test_domainbed_records_the_time_of_steps_and_the_memory_of_gpus(tmp_path: Path) -> None:
    accuracies = {f"env{i}_{part}_acc": 0.5 for i in range(4) for part in ("in", "out")}
    args = RunArgs("VLCS", "ERM", (2,), 0, 0).to_json(5001, 0.2)
    records = [
        {"step": step, "step_time": seconds, "mem_gb": memory, **accuracies}
        for step, seconds, memory in ((0, 2.0, 1.5), (300, 0.5, 4.0))
    ]
    write_run(tmp_path, args, {"lr": 0.1}, records)
    found = by_row(tmp_path)["ERM"]
    assert (found.seconds, found.gpu_seconds) == (2.0 + 300 * 0.5, 152.0)
    assert found.steps_per_second == pytest.approx(301 / 152)
    assert (found.peak_bytes, found.runs, found.untimed) == (4 << 30, 1, 0)


def test_the_section_and_the_frame_say_the_same(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(own), "--cost", "--format", "markdown", "--rows", "ERM"]) == 0
    (title,) = [part for part in capsys.readouterr().out.split("### ") if part.startswith("Cost on ColoredMNIST")]
    rows = [line.split("|") for line in title.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[2]][1:-1] == ["ERM", "24", "0.0267", "0", "4", "2.5", ""]
    assert [row[1].strip() for row in rows[2:]] == ["ERM", ALL]
    frame = dgbench.load_results(own).cost().set_index("row")
    assert frame.loc["ERM", ["runs", "seconds", "steps_per_second"]].tolist() == [24, 96.0, 2.5]
    assert frame.dtypes.astype(str).to_dict()["peak_bytes"] == "Int64"


def test_cost_has_no_place_in_other_formats(own: Path) -> None:
    from dgbench import cli

    assert cli.run(main, [str(own), "--cost", "--format", "csv"]) == 2
