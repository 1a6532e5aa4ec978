"""Small sweeps that tests plan, and execute run by run in their own process."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.protocol import View
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.data.views import ViewData
from dgbench.execute.context import open_context
from dgbench.execute.evaluate import Predict, predict_batches, score_views
from dgbench.execute.job import run_job
from dgbench.execute.training import Training
from dgbench.launchers.base import Slot
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from dgbench.store.lease import Lease, Stopped
from dgbench.store.run_folder import RunFolder

CPU = torch.device("cpu")


def sweep_of(root: Path, *rows: str, site: Site | None = None, **asked: Any) -> Sweep:
    """A sweep of those rows on rotated digits, 75 degrees held out, written to `root`; keys as in a sweep file."""
    asked = {
        "algorithms": list(rows),
        "datasets": ["RotatedDigits"],
        "n_hparams": 1,
        "n_trials": 1,
        **({} if "test_domains" in asked else {"test_envs": ["75"], "single_test_envs": True}),
        **asked,
        "setting": {"steps": 20, "checkpoint_freq": 6, **asked.get("setting", {})},
        "hparams": {"batch_size": 16, **asked.get("hparams", {})},
    }
    site = site or Site(device="cpu")
    sweep = prepare(root, asked, site, Catalogue(site.include))
    sweep.write()
    return sweep


def execute(sweep: Sweep, run: Run) -> int:
    """Execute one run here, on one thread; its exit code."""
    torch.set_num_threads(1)
    sweep.store.folder(run.id).create(run)
    return run_job(sweep.job(run, Slot(index=0, gpu=None, threads=1)), sweep.catalogue)


def execute_all(sweep: Sweep) -> Sweep:
    """Execute every run, none of which may fail."""
    for run in sweep.plan.runs:
        assert execute(sweep, run) == 0, sweep.store.folder(run.id).failures()
    return sweep


def runs_of(sweep: Sweep, method: str) -> list[Run]:
    """The runs of a method, in the order of the plan."""
    return [run for run in sweep.plan.runs if run.method.name == method]


def training_of(
    sweep: Sweep, run: Run, keep: Mapping[str, Collection[str]] | None = None, lease: Patience | None = None
) -> Training:
    """The training of a run, not begun or where its checkpoint is, by `Patience` or another lease."""
    torch.set_num_threads(1)
    sweep.store.folder(run.id).create(run)
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue, keep or {}, cast(Lease, lease or Patience()))
    return Training(context, context.algorithm(begin=True, train=True))


def scores_of(
    predict: Predict, data: ViewData, views: tuple[View, ...], kept: dict[View, Tensor] | None = None
) -> dict[str, dict[str, float]]:
    """Scores of a model on each view, on the CPU."""
    return score_views(partial(predict_batches, predict, data, device=CPU), data, views, kept)


class Patience:
    """A lease that nobody else wants, and that asks to stop once so many steps are made."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.stop_after = stop_after
        self.stop_requested = False

    def beat(self, step: int, steps: int) -> None:
        self.stop_requested = step >= self.stop_after

    def confirm(self) -> None:
        pass


def train(training: Training, stop_after: int = 10**9) -> bool:
    """Train to the end, or until stopped after so many steps; whether it was stopped."""
    try:
        cast(Patience, training.lease).stop_after = stop_after
        training.execute()
    except Stopped:
        return True
    return False


def records_of(folder: RunFolder, predictor: str | None = None) -> list[dict[str, Any]]:
    """What a run recorded, of one predictor or of all."""
    lines = (folder.path / "records.jsonl").read_text().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [record for record in records if predictor in (None, record["predictor"])]
