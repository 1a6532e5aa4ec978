"""Inputs pass through a featurizer once in a run, as long as its weights stay: counted in examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.execute.context import open_context
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from dgbench.networks.network import Network
from tests.support.in_process import execute, records_of, sweep_of

FROZEN = {"freeze": "featurizer", "augmentation": False, "steps": 10, "checkpoint_freq": 2}
ROWS = ("ERM+SWAD", "ERM+EMA", "ERM+WiSEFT", "ERM+Ensemble", "ERM+T3A", "ERM+AdaNPC", "LinearProbe")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Examples of each pass without gradients from now on."""
    found: list[int] = []
    features = Network._features

    def counted(self: Network, x: Tensor) -> Tensor:
        found.extend([len(x)] * (not torch.is_grad_enabled()))
        return features(self, x)

    monkeypatch.setattr(Network, "_features", counted)
    return found


def sizes(sweep: Sweep, run: Run) -> tuple[int, int, int]:
    """Examples of the views that a run evaluates, of its validation views, and of those that train."""
    data = open_context(run, sweep.store, sweep.site, sweep.catalogue).data

    def total(views: tuple[View, ...]) -> int:
        return sum(data.size(view) for view in views)

    return total(run.views), total(run.fold.validation), total(run.fold.train)


def models_of(sweep: Sweep, run: Run) -> int:
    """How many models of its input a run adapts: one if the best is the last."""
    (source,) = run.inputs
    folder = sweep.store.folder(source.run).path
    return len({find_model(folder, MODEL, which).step for which in (BEST, LAST)})


def test_models_that_share_a_frozen_featurizer_share_its_passes(tmp_path: Path, passed: list[int]) -> None:
    sweep = sweep_of(tmp_path, *ROWS, n_hparams=2, setting=FROZEN)
    seen = set[str]()
    for run in sweep.plan.runs:
        passed.clear()
        assert execute(sweep, run) == 0
        views, validation, train = sizes(sweep, run)
        records = records_of(sweep.store.folder(run.id))
        name = run.method.name
        seen.add(name)
        # The probe chooses its penalty by the validation views, which are evaluated later.
        read = views + (train if name in ("AdaNPC", "LinearProbe") else 0)
        assert validation <= views
        assert sum(passed) == read, (run.name, len(records))
        assert len(records) == {"ERM": 13, "WiSEFT": 11}.get(name, len(records))
    assert seen == {"ERM", "WiSEFT", "Ensemble", "T3A", "AdaNPC", "LinearProbe"}


def test_an_adapter_reads_the_training_examples_once_for_each_model(tmp_path: Path, passed: list[int]) -> None:
    sweep = sweep_of(tmp_path, "ERM+AdaNPC", setting={"steps": 5, "checkpoint_freq": 2})
    source, run = sweep.plan.runs
    assert execute(sweep, source) == 0
    views, _, train = sizes(sweep, source)
    assert sum(passed) == len(records_of(sweep.store.folder(source.id))) * views, "weights that learn: each time"
    passed.clear()
    assert execute(sweep, run) == 0
    assert sum(passed) == models_of(sweep, run) * (views + train)


def test_scores_are_those_of_features_that_are_computed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("ERM+SWAD", "ERM+SwitchEMA", "ERM+AdaNPC", "ERM+WiSEFT")
    found = []
    for remembered in (True, False):
        if not remembered:
            monkeypatch.setattr(Network, "memory", property(lambda self: None, lambda self, memory: None))
        sweep = sweep_of(tmp_path / str(remembered), *rows, setting={**FROZEN, "steps": 3})
        for run in sweep.plan.runs:
            assert execute(sweep, run) == 0
        found.append(
            [sweep.store.folder(run.id).path.joinpath("records.jsonl").read_bytes() for run in sweep.plan.runs]
        )
    assert found[0] == found[1]
