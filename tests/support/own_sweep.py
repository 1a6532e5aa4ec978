"""Makes a finished sweep folder with random accuracies, which tests then damage. Loaded with `runpy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dgbench.core.protocol import Fold, LeaveOneDomainOut, Protocol
from dgbench.core.run import MODEL, Input, ResolvedEntry, Run
from dgbench.core.setting import Setting, setting
from dgbench.data.facts import DatasetFacts
from dgbench.plan.derived import PlannedPredictor
from dgbench.plan.plan import Plan
from dgbench.plan.planfile import PlanTable, tabulate, write_plan
from dgbench.store.run_folder import RunFolder

STEPS = (0, 5, 9)
SUMMARY = {"fingerprint": "f00d", "versions": {"dgbench": "0.1.0", "torch": "2.9"}, "commit": "abc1234"}


def make(
    root: Path,
    *,
    dataset: str = "ColoredMNIST",
    domains: Sequence[str] = ("+90%", "+80%", "-90%"),
    protocol: Protocol | None = None,
    hparams: int = 2,
    trials: int = 2,
    preset: str = "domainbed-2020",
    seed: int = 0,
    steps: int = 10,
    **changes: Any,
) -> PlanTable:
    """Rows ERM, ERM+SWAD (at the last step only) and ERM+DiWA (merged from all hyperparameter seeds), all finished."""
    protocol = protocol or LeaveOneDomainOut()
    how = setting(preset, steps=steps, checkpoint_freq=5, **changes)
    runs: list[Run] = []
    cells: dict[str, list[PlannedPredictor]] = {"ERM": [], "ERM+SWAD": [], "ERM+DiWA": []}
    for fold in protocol.folds(domains):
        for trial in range(trials):
            trained = [_train(dataset, fold, trial, hparams_seed, how) for hparams_seed in range(hparams)]
            merged = dataclasses.replace(
                trained[0],
                kind="merge",
                method=ResolvedEntry("DiWA"),
                averages=(),
                inputs=tuple(Input(r.id) for r in trained),
            )
            cells["ERM"] += [PlannedPredictor(run, MODEL) for run in trained]
            cells["ERM+SWAD"] += [PlannedPredictor(run, "SWAD") for run in trained]
            cells["ERM+DiWA"].append(PlannedPredictor(merged, MODEL))
            runs += [*trained, merged]
    runs.sort(key=lambda run: run.kind == "merge")
    facts = DatasetFacts(dataset, tuple(domains), (50,) * len(domains), 2, (2, 28, 28), (), 10, 5, "f00d", shares={})
    plan = Plan(tuple(runs), tuple(cells), {dataset: facts}, {(row, dataset): tuple(c) for row, c in cells.items()})
    table = tabulate(plan, how, protocol.name)
    write_plan(root, table)
    rng = np.random.default_rng(seed)
    with patch("os.fsync"):  # nobody pulls the plug, and it is most of the time
        for run in runs:
            folder = RunFolder(root, run.id)
            folder.create(run)
            folder.append_records(_records(run, rng))
            folder.finish(SUMMARY)
    return table


def folder(root: Path, table: PlanTable, **wanted: Any) -> RunFolder:
    """The folder of the one run of the plan with these fields; `held_out` is a tuple of domains."""
    held_out = wanted.pop("held_out")
    (run,) = (
        run
        for run in table.runs
        if table.folds[run.fold].held_out == held_out and all(getattr(run, k) == v for k, v in wanted.items())
    )
    return RunFolder(root, run.id)


def _train(dataset: str, fold: Fold, trial: int, hparams_seed: int, how: Setting) -> Run:
    method, averages = ResolvedEntry("ERM", {"lr": 1e-3}), (ResolvedEntry("SWAD"),)
    return Run("train", method, dataset, fold, hparams_seed, trial, how, averages)


def _records(run: Run, rng: np.random.Generator) -> list[dict[str, Any]]:
    def record(step: int, predictor: str) -> dict[str, Any]:
        views = {str(v): {"accuracy": int(rng.integers(0, 11)) / 10, "loss": 1.0, "n": 10} for v in run.fold.evaluated}
        return {"step": step, "predictor": predictor, "views": views}

    if run.kind == "merge":
        return [record(STEPS[-1], MODEL)]
    return [*(record(step, MODEL) for step in STEPS), record(STEPS[-1], "SWAD")]
