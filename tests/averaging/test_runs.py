"""Averages in real runs: of any algorithm, with live batch norm, and those that change the training they watch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import LAST, MODEL
from dgbench.core.site import Site
from dgbench.execute.batch_norm import inputs_for, measure_statistics
from dgbench.execute.models import find_model
from dgbench.execute.training import Training
from dgbench.launchers.reconcile import Sweep
from tests.support.in_process import CPU, execute_all, records_of, sweep_of, train, training_of

AVERAGES = Catalogue().of_kind("average")
FEEDING_BACK = {name for name, entry in AVERAGES.items() if entry.card.feeds_back}
SHORT: dict[str, Any] = {
    "EMA": {"decay": 0.8},
    "SwitchEMA": {"decay": 0.8},
    "SMA": {"start": 3},
    "SWA": {"start": 0.5, "cycle": 2},
    "SWAD": {"n_converge": 1, "n_tolerance": 1},
}
"""Values with which a few steps show all that an average does."""


def short(*names: str) -> dict[str, Any]:
    return {name: SHORT[name] for name in names if name in SHORT}


def alone(root: Path, row: str, **asked: Any) -> Training:
    """The only run that a row needs, with its average's values cut short."""
    sweep = sweep_of(root, row, **{**asked, "hparams": {**short(*row.split("+")), **asked.get("hparams", {})}})
    (run,) = sweep.plan.runs
    return training_of(sweep, run)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# -- composition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ERM", "SAM", "Fish", "DANN"])
def test_every_average_of_any_algorithm(algorithm: str, tmp_path: Path) -> None:
    rows = [algorithm, *(f"{algorithm}+{name}" for name in AVERAGES)]
    sweep = sweep_of(tmp_path, *rows, setting={"steps": 9, "checkpoint_freq": 4}, hparams=short(*AVERAGES))
    watched = {frozenset(part.name for part in run.averages) for run in sweep.plan.runs}
    assert watched == {frozenset(AVERAGES.keys() - FEEDING_BACK), *(frozenset({name}) for name in FEEDING_BACK)}
    execute_all(sweep)
    for name, entry in AVERAGES.items():
        (candidate,) = sweep.plan.candidates[f"{algorithm}+{name}", "RotatedDigits"]
        folder = sweep.store.folder(candidate.run.id)
        found, live = records_of(folder, name), records_of(folder, "model")
        steps = {"SWA": [4, 8]}.get(name, [0, 4, 8] if entry.card.when == "always" else [8])
        assert [record["step"] for record in found] == steps
        assert found[-1]["views"] != live[-1]["views"], "it is not the live model"
        assert found[-1]["views"].keys() == live[-1]["views"].keys()


# -- batch norm ---------------------------------------------------------------------------------------------------

LIVE = {"backbone": "resnet10t", "pretrained": False, "batch_norm": "live", "steps": 3, "checkpoint_freq": 3}


def test_from_scratch_running_statistics_move(tmp_path: Path) -> None:
    scratch = {"backbone": "resnet10t", "pretrained": False, "steps": 3, "checkpoint_freq": 3}
    training = alone(tmp_path, "ERM", setting=scratch)
    before = {name: b.clone() for name, b in training.algorithm.named_buffers() if "running_" in name}
    train(training)
    after = dict(training.algorithm.named_buffers())
    assert before
    assert not [name for name, buffer in before.items() if torch.equal(buffer, after[name])]


def live_sweep(root: Path, *rows: str) -> Sweep:
    site = Site(device="cpu", save_models="all")
    names = [name for row in rows for name in row.split("+")[1:]]
    return sweep_of(root, *rows, site=site, setting=LIVE, hparams={"batch_size": 4, **short(*names)})


@pytest.mark.slow
def test_statistics_of_live_batch_norm_are_measured_where_the_card_says_so(tmp_path: Path) -> None:
    sweep = live_sweep(tmp_path, *(f"ERM+{name}" for name in AVERAGES))
    seen = set()
    for run in sweep.plan.runs:
        training = training_of(sweep, run)
        train(training)
        training.algorithm.train()
        for name, average in training.averages.items():
            held = average.weights()
            assert held is not None
            own = measure_statistics(training.algorithm, held, inputs_for(training.algorithm, training.data, run))
            saved = find_model(training.folder.path, name, LAST).load(CPU)
            expected = own if AVERAGES[name].card.batch_norm == "measured" else held
            assert same(saved, expected), name
            assert not same(own, held), name
            seen.add(name)
    assert seen == set(AVERAGES)


@pytest.mark.slow
def test_measuring_them_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    found = []
    for rows in (("ERM",), ("ERM", *(f"ERM+{name}" for name in AVERAGES.keys() - FEEDING_BACK))):
        sweep = live_sweep(tmp_path / str(len(rows)), *rows)
        (run,) = sweep.plan.runs
        training = training_of(sweep, run)
        train(training)
        found.append(training)
    unwatched, watched = found
    assert records_of(watched.folder, "model") == records_of(unwatched.folder)
    assert same(watched.algorithm.state_dict(), unwatched.algorithm.state_dict())


# -- those that feed back -----------------------------------------------------------------------------------------


def test_training_goes_on_from_the_switched_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = alone(tmp_path / "switched", "ERM+SwitchEMA")
    (average,) = training.averages.values()
    feed_back, switched = Training._feed_back, []

    def spy(self: Training) -> None:
        live, optimizer = self.algorithm.predictor_tensors(), self.algorithm.optimizer
        moments = copy.deepcopy(optimizer.state_dict())
        held = copy.deepcopy(average.weights())
        assert held is not None
        before = same(live, held)
        feed_back(self)
        after = same(self.algorithm.predictor_tensors(), held)
        assert same(average.weights() or {}, held), "the average goes on as it is"
        torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)
        switched.append((before, after))

    monkeypatch.setattr(Training, "_feed_back", spy)
    train(training)
    assert switched == [(False, True)] * 5
    monkeypatch.undo()
    unwatched = alone(tmp_path / "alone", "ERM")
    train(unwatched)
    here, there = records_of(training.folder, "model"), records_of(unwatched.folder)
    assert here[0] == there[0], "nothing is switched before the first evaluation"
    assert all(mine["train"] != other["train"] for mine, other in zip(here[1:], there[1:], strict=True))


def test_the_average_that_is_recorded_is_what_training_goes_on_from(tmp_path: Path) -> None:
    training = alone(tmp_path, "ERM+SwitchEMA", setting={"steps": 7})
    train(training)
    (record,) = records_of(training.folder, "SwitchEMA")[-1:]
    assert record["step"] == 6
    live = training._measure(6, MODEL, None, last=False)
    assert live == record["views"]


@pytest.mark.parametrize("form", ["constant", "cyclic"])
@pytest.mark.parametrize("algorithm", ["ERM", "DANN"])
def test_learning_rates_follow_the_rule_on_top_of_the_schedule(algorithm: str, form: str, tmp_path: Path) -> None:
    setting = {"warmup_steps": 4}
    training = alone(
        tmp_path / form,
        f"{algorithm}+SWA",
        hparams={"lr": 1e-3, "SWA": {"start": 0.5, "cycle": 3, "form": form, "factor": 0.2}},
        setting=setting,
    )
    rates: dict[int, set[float]] = {}

    def note(optimizer: Optimizer, *_: Any) -> None:
        shares = {group["lr"] / group["full_lr"] for group in optimizer.param_groups}
        rates.setdefault(training.algorithm.step, set()).update(shares)

    for optimizer in vars(training.algorithm).values():
        if isinstance(optimizer, Optimizer):
            optimizer.register_step_post_hook(note)
    train(training)
    (average,) = training.averages.values()
    expected = [average.lr_factor(step) * min(1, (step + 1) / 4) for step in range(20)]
    assert len({round(share, 6) for share in expected}) > 5
    for step, share in enumerate(expected):
        assert sorted(rates[step]) == pytest.approx([share] * len(rates[step]), rel=1e-12)
    unwatched = alone(tmp_path / "alone", algorithm, hparams={"lr": 1e-3}, setting=setting)
    train(unwatched)
    here, there = records_of(training.folder, "model"), records_of(unwatched.folder)
    alike = [mine == other for mine, other in zip(here, there, strict=True)]
    assert alike == [True, False, False, False, False], "step 6 is the first behind half the way to the start"


@pytest.mark.parametrize("row", ["ERM+SwitchEMA", "SAM+SwitchEMA", "ERM+SWA", "Fish+SWA"])
def test_what_feeds_back_goes_on_as_if_it_was_not_stopped(row: str, tmp_path: Path) -> None:
    name = row.partition("+")[2]
    cyclic = {"SWA": {"start": 0.5, "cycle": 3, "form": "cyclic"}} if name == "SWA" else {}
    asked = {"site": Site(device="cpu", save_models="all"), "hparams": {"resnet_dropout": 0.5, **cyclic}}
    undisturbed = alone(tmp_path / "whole", row, **asked)
    assert not train(undisturbed)
    for stop_after in (1, 3, 7, 11, 13, 19):
        assert train(alone(tmp_path / "cut", row, **asked), stop_after)
    last = alone(tmp_path / "cut", row, **asked)
    assert not train(last)
    assert records_of(last.folder) == records_of(undisturbed.folder)
    assert same(last.algorithm.state_dict(), undisturbed.algorithm.state_dict())
    for predictor in ("model", name):
        models = (find_model(training.folder.path, predictor, LAST) for training in (last, undisturbed))
        assert same(*(model.load(CPU) for model in models))
