from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from dgbench.core.errors import UserError
from dgbench.execute.context import open_context
from dgbench.execute.evaluate import mean_score
from dgbench.execute.models import predict_with
from dgbench.execute.probe import _write, fit_classifier
from dgbench.execute.training import Training
from dgbench.store.lease import Stopped, StopSignals
from tests.support.in_process import CPU, records_of, scores_of, sweep_of, train, training_of


def training(tmp_path: Path, algorithm: str = "ERM", **setting: object) -> Training:
    sweep = sweep_of(tmp_path, algorithm, setting={"classifier_init": "linear_probe", **setting})
    return training_of(sweep, sweep.plan.runs[0])


def accuracy(found: Training) -> float:
    scores = scores_of(predict_with(found.algorithm), found.data, found.run.fold.source_val)
    return mean_score(scores, found.run.fold.source_val)


def test_training_begins_with_a_fitted_classifier_on_the_initial_features(tmp_path: Path) -> None:
    fitted = training(tmp_path / "probe")
    plain = training(tmp_path / "plain", classifier_init="random")
    for (name, tensor), other in zip(fitted.algorithm.named_parameters(), plain.algorithm.parameters(), strict=True):
        assert torch.equal(tensor, other) is not name.startswith("network.classifier"), name
    assert accuracy(fitted) > accuracy(plain) + 0.2


def test_of_all_penalties_the_best_on_unseen_parts_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = training(tmp_path)
    best = accuracy(found)
    for strength in (1e-7, 1e-3, 1e2):
        monkeypatch.setattr("dgbench.execute.probe.STRENGTHS", np.array([strength]))
        fit_classifier(found.algorithm.network, found.data, found.run.fold, CPU)
        assert accuracy(found) <= best + 0.01, "each fit goes on from the one before, so a lone fit may differ a little"


def test_only_the_classifier_learns_where_the_featurizer_is_frozen(tmp_path: Path) -> None:
    found = training(tmp_path, freeze="featurizer")
    before = {name: p.detach().clone() for name, p in found.algorithm.named_parameters()}
    train(found)
    for name, p in found.algorithm.named_parameters():
        assert torch.equal(p, before[name]) is name.startswith("network.featurizer"), name


def test_a_resumed_run_is_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole", "SAM")
    train(whole)
    first = training(tmp_path / "stopped", "SAM")
    assert train(first, stop_after=9)
    train(training(tmp_path / "stopped", "SAM"))
    assert records_of(first.folder) == records_of(whole.folder)


@pytest.mark.parametrize("augmented", [False, True])
def test_the_penalty_is_chosen_on_clean_images(
    augmented: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws of augmentation differ between the runs of a trial, which must begin alike."""
    fitted: list[Any] = []
    monkeypatch.setattr("dgbench.execute.probe.fit_classifier", lambda network, data, *rest: fitted.append(data))
    run = training(tmp_path, validation_augmented=augmented).run
    assert fitted[0].augmented == frozenset()
    assert set(run.fold.source_val) <= set(fitted[0].indices)


def test_a_class_that_nobody_saw_is_never_predicted() -> None:
    linear = nn.Linear(2, 4)
    _write(linear, np.array([[1.0, 0], [0, 1], [-1, -1]]), np.array([0.5, -0.5, 0.0]), np.array([0, 1, 3]))
    assert linear.weight.tolist() == [[1, 0], [0, 1], [0, 0], [-1, -1]]
    assert linear.bias.tolist() == [0.5, -0.5, -0.5, 0]


def test_two_classes_share_the_one_row() -> None:
    linear = nn.Linear(2, 2)
    _write(linear, np.array([[2.0, -4]]), np.array([1.0]), np.array([0, 1]))
    assert linear.weight.tolist() == [[-1, 2], [1, -2]]
    assert linear.bias.tolist() == [-0.5, 0.5]


def test_a_classifier_of_three_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out nonlinear_classifier"):
        training(tmp_path, nonlinear_classifier=True)


def test_a_stop_is_heard_between_batches_and_while_a_fit_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = training(tmp_path)
    before = [p.detach().clone() for p in found.algorithm.parameters()]
    fitting, over = Event(), Event()

    def endless(self: LogisticRegression, x: object, y: object) -> None:
        fitting.set()
        over.wait()

    def stopping(parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            if fitting.is_set() or before_fit:
                raise Stopped
            yield part

    monkeypatch.setattr(LogisticRegression, "fit", endless)
    for before_fit in (False, True):
        with pytest.raises(Stopped):
            fit_classifier(found.algorithm.network, found.data, found.run.fold, CPU, stopping)
        assert fitting.is_set() is not before_fit
        over.set()
        fitting.clear()
    assert all(map(torch.equal, before, found.algorithm.parameters()))


def test_the_stop_of_a_run_is_heard_in_its_probe(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", setting={"classifier_init": "linear_probe"})
    folder = sweep.store.folder(sweep.plan.runs[0].id)
    folder.create(sweep.plan.runs[0])
    stops = StopSignals()
    lease = folder.claim(stops)
    assert lease
    with lease:
        context = open_context(sweep.plan.runs[0], sweep.store, sweep.site, sweep.catalogue, lease=lease)
        stops.came = True  # as SIGTERM sets it
        with pytest.raises(Stopped):
            context.algorithm(begin=True)
