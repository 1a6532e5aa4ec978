"""A run's kept weights predict as the run did, without its data, and say of themselves how they are used."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.core.site import Site
from dgbench.execute.context import open_context
from dgbench.execute.kept import NotKept, load_kept_model
from dgbench.execute.models import find_model, save_model
from dgbench.launchers.reconcile import Sweep
from dgbench.models.ready import ReadyModel
from dgbench.store.sealed import CorruptFile
from tests.support.in_process import CPU, execute_all, records_of, runs_of, sweep_of

SITE = Site(device="cpu", save_models="all")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    rows = ("ERM", "ERM+SMA", "ERM+T3A", "ERM+DiWA", "ERM+Ensemble", "MTL", "KNN")
    asked = {
        "n_hparams": 2,
        "setting": {"steps": 9, "checkpoint_freq": 3},
        "hparams": {"KNN": {"queue_size": 40, "k": 3}, "SMA": {"start": 2}},
    }
    return execute_all(sweep_of(tmp_path_factory.mktemp("kept"), *rows, site=SITE, **asked))


def accuracy(sweep: Sweep, run: Run, model: ReadyModel) -> float:
    """Of the ready model on the held-out domain, given arrays."""
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue)
    (view,) = run.fold.test
    inputs = context.data.inputs(view, np.arange(context.data.size(view)))
    labels = [model.classes[label] for label in context.data.labels(view)]
    return float(
        np.mean([found == label for found, label in zip(model.predict(inputs).predicted, labels, strict=True)])
    )


def recorded(sweep: Sweep, run: Run, predictor: str, step: int) -> float:
    (record,) = (r for r in records_of(sweep.store.folder(run.id), predictor) if r["step"] == step)
    (view,) = run.fold.test
    return float(record["views"][str(view)]["accuracy"])


@pytest.mark.parametrize(
    ("method", "predictor", "row"),
    [
        ("ERM", MODEL, "ERM"),
        ("ERM", "SMA", "ERM+SMA"),
        ("DiWA", MODEL, "ERM+DiWA"),
        ("MTL", MODEL, "MTL"),
        ("KNN", MODEL, "KNN"),
    ],
)
def test_weights_predict_as_their_run_did(sweep: Sweep, method: str, predictor: str, row: str) -> None:
    run = runs_of(sweep, method)[-1]
    for which in (BEST, LAST):
        model = load_kept_model(sweep.root, run.id, SITE, predictor, which)
        step = find_model(sweep.store.folder(run.id).path, predictor, which).step
        assert accuracy(sweep, run, model) == recorded(sweep, run, predictor, step)
        assert model.facts.row == row
        again = load_kept_model(sweep.root, run.id, SITE, predictor, step)
        assert torch.equal(*(next(iter(m.network.state_dict().values())) for m in (model, again)))


def test_an_ensemble_is_the_mean_of_its_members(sweep: Sweep) -> None:
    (run,) = runs_of(sweep, "Ensemble")
    model = load_kept_model(sweep.root, run.id, SITE)
    assert model.facts.row == "ERM+Ensemble"
    assert accuracy(sweep, run, model) == recorded(sweep, run, MODEL, run.setting.steps - 1)
    members = [load_kept_model(sweep.root, source.run, SITE) for source in run.inputs]
    x = np.random.default_rng(0).integers(0, 256, (5, *model.facts.input_shape), dtype=np.uint8)
    mean = np.mean([member.predict(x).logits for member in members], axis=0)
    np.testing.assert_allclose(model.predict(x, batch_size=2).logits, mean, rtol=1e-5, atol=1e-6)


def test_a_file_says_all_that_its_use_needs(sweep: Sweep) -> None:
    run = runs_of(sweep, "ERM")[1]
    saved = find_model(sweep.store.folder(run.id).path, "SMA", LAST)
    facts = saved.facts
    assert facts is not None
    assert (facts.row, facts.dataset, facts.held_out, facts.run) == ("ERM+SMA", "RotatedDigits", ("75",), run.id)
    assert facts.classes == tuple("0123456789")
    assert (facts.backbone, facts.input_shape, facts.precision) == ("SmallCNN", facts.input_shape, "fp32")
    assert (facts.hparams["batch_size"], facts.hparams_seed, facts.trial) == (16, 1, 0)
    assert facts.preprocessing is not None
    assert (facts.preprocessing.channels, facts.preprocessing.mean) == (1, (0.0,))
    assert len(facts.class_counts) == len(facts.training_domains) == 5
    assert all(sum(counts) > 0 for counts in facts.class_counts)
    assert (facts.weights, facts.weights_hash) == ("", ""), "it began with random weights"
    assert sweep.plan.datasets["RotatedDigits"].classes == facts.classes


def test_weights_of_earlier_versions_are_described_by_their_data(sweep: Sweep, tmp_path: Path) -> None:
    root = shutil.copytree(sweep.root, tmp_path / "old")
    run = runs_of(sweep, "ERM")[0]
    folder = root / "runs" / run.id
    saved = find_model(folder, MODEL, BEST)
    save_model(folder, MODEL, BEST, saved.load(CPU), saved.step, saved.accuracy)
    assert find_model(folder, MODEL, BEST).facts is None
    model = load_kept_model(root, run.id, SITE)
    assert dataclasses.replace(model.facts, predictor=MODEL) == saved.facts
    assert accuracy(sweep, run, model) == recorded(sweep, run, MODEL, saved.step)


def test_what_is_not_there_is_refused_with_the_reason(sweep: Sweep, tmp_path: Path) -> None:
    (adapted,), trained = runs_of(sweep, "T3A")[:1], runs_of(sweep, "ERM")[0]
    with pytest.raises(NotKept, match="T3A learns from the inputs"):
        load_kept_model(sweep.root, adapted.id, SITE)
    with pytest.raises(NotKept, match="of step 1 no weights are kept, only of step"):
        load_kept_model(sweep.root, trained.id, SITE, which=1)
    root = shutil.copytree(sweep.root, tmp_path / "bare")
    folder = root / "runs" / trained.id
    saved = find_model(folder, MODEL, LAST)
    tensors = saved.load(CPU)
    tensors.popitem()
    save_model(folder, MODEL, LAST, tensors, saved.step, saved.accuracy, saved.facts)
    with pytest.raises(CorruptFile, match="lacks network"):
        load_kept_model(root, trained.id, SITE, which=LAST)
    shutil.rmtree(folder / "models")
    with pytest.raises(NotKept, match="launch with --save_models"):
        load_kept_model(root, trained.id, SITE)


def test_loading_draws_nothing_from_the_callers_generator(sweep: Sweep) -> None:
    before = torch.random.get_rng_state()
    load_kept_model(sweep.root, runs_of(sweep, "ERM")[0].id, SITE)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert View("75", "in") in runs_of(sweep, "ERM")[0].fold.test
