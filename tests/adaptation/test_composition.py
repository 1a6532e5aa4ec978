"""Every adapter on a trained, an averaged and a merged model, in real runs: fresh for each view, chosen without it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dgbench.adaptation.adanpc import AdaNPC
from dgbench.adaptation.bn_adapt import BNAdapt
from dgbench.adaptation.sar import SAR
from dgbench.adaptation.t3a import T3A
from dgbench.adaptation.tent import TENT
from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.run import LAST, Input, Run
from dgbench.core.seeding import numpy_stream, seed_everything
from dgbench.core.site import Site
from dgbench.execute.evaluate import predict_view
from dgbench.execute.models import find_model, predict_with
from dgbench.execute.training import Training
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.adapter import Adapter
from dgbench.report.reader import read_results
from dgbench.report.select import TrainingDomain
from dgbench.store import removal
from tests.support.in_process import CPU, execute, execute_all, records_of, runs_of, sweep_of, training_of

ADAPTERS: dict[str, type[Adapter]] = {"AdaNPC": AdaNPC, "BNAdapt": BNAdapt, "SAR": SAR, "T3A": T3A, "TENT": TENT}
BASES = ("ERM", "ERM+SWAD", "ERM+DiWA")
BATCH_NORM = {"backbone": "test_resnet", "pretrained": False, "batch_norm": "live"}
HPARAMS = {"SAR": {"margin": 0.9}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """All adapters on all bases over two runs of a small ResNet with batch norm, executed."""
    site = Site(device="cpu", save_models="all", save_predictions="chosen")
    rows = [f"{base}+{name}" for base in BASES for name in ADAPTERS]
    how = {"steps": 40, **BATCH_NORM}
    root = tmp_path_factory.mktemp("adapters")
    return execute_all(sweep_of(root, *rows, site=site, n_hparams=2, setting=how, hparams=HPARAMS))


def inputs_of(sweep: Sweep, base: str) -> list[Input]:
    """The predictors that a row with that base adapts."""
    if base == "ERM+DiWA":
        return [Input(run.id, "model") for run in runs_of(sweep, "DiWA")]
    return [Input(run.id, "SWAD" if "SWAD" in base else "model") for run in runs_of(sweep, "ERM")]


def adapted(sweep: Sweep, name: str, base: str) -> list[Run]:
    wanted = inputs_of(sweep, base)
    return [run for run in runs_of(sweep, name) if run.inputs[0] in wanted]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_runs_on_every_base(sweep: Sweep, name: str, base: str) -> None:
    runs = adapted(sweep, name, base)
    assert [run.inputs[0] for run in runs] == inputs_of(sweep, base)
    for run in runs:
        records = records_of(sweep.store.folder(run.id))
        assert records
        for record in records:
            assert set(record["views"]) == {str(view) for view in run.fold.evaluated}
            assert all(np.isfinite(scores["loss"]) for scores in record["views"].values())


def alone(training: Training, run: Run, view: View) -> Tensor:
    """Logits of a view by an adapter that was made for it and has seen nothing else."""
    data, network = training.data, copy.deepcopy(training.algorithm.network)
    seed_everything(CPU, run.seed, "adapt", str(view))
    cls = ADAPTERS[run.method.name]
    adapter = cls(network, cls.Hparams(**run.method.hparams))

    def source() -> Iterator[tuple[Tensor, Tensor]]:
        for domain in run.fold.train:
            x = data.inputs(domain, np.arange(data.size(domain)))
            yield network.prepare(x), torch.from_numpy(data.labels(domain))

    if cls.card.needs_source:
        adapter.begin(source())
    order = numpy_stream(run.seed, "adapt", str(view)).permutation(data.size(view))
    batches = [order[start : start + 32] for start in range(0, len(order), 32)]
    logits = torch.cat([adapter.predict(network.prepare(data.inputs(view, batch))) for batch in batches])
    return logits[torch.from_numpy(order.argsort())]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_each_view_is_predicted_as_if_there_were_no_other(sweep: Sweep, name: str, base: str) -> None:
    run = adapted(sweep, name, base)[-1]
    source = run.inputs[0]
    training = training_of(sweep, runs_of(sweep, "ERM")[0])
    weights = find_model(sweep.store.folder(source.run).path, source.predictor, LAST).load(CPU)
    training.algorithm.load_state_dict(weights, strict=False)
    plain = predict_with(training.algorithm)
    kept = load_file(sweep.store.folder(run.id).path / "predictions" / "model.last.safetensors")
    for view in reversed(run.fold.evaluated):
        logits = kept[f"{view}/logits"]
        torch.testing.assert_close(logits, alone(training, run, view), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits, predict_view(plain, training.data, view, CPU), atol=1e-2), "it is adapted"


def test_hyperparameters_are_chosen_on_the_training_domains_validation_parts(sweep: Sweep) -> None:
    results = read_results(sweep.root)
    for name in ("AdaNPC", "TENT"):
        runs = adapted(sweep, name, "ERM")
        assert len(runs) == 2
        assert runs[0].method.hparams != runs[1].method.hparams, "each hyperparameter seed has values of its own"
        scores = {}
        for run in runs:
            for record in records_of(sweep.store.folder(run.id)):
                views = [record["views"][str(view)]["accuracy"] for view in run.fold.source_val]
                scores[run.id, record["step"]] = float(np.mean(views))
        pick = TrainingDomain().choose(results, f"ERM+{name}", "RotatedDigits", 0, 0).pick
        assert pick is not None
        assert pick.value == pytest.approx(max(scores.values()))
        assert scores[pick.run, pick.step] == max(scores.values())


def failure(root: Path, row: str, method: str, **asked: Any) -> str:
    sweep = sweep_of(root, row, **asked)
    *before, last = sweep.plan.runs
    assert [execute(sweep, run) for run in before] == [0] * len(before)
    assert last.method.name == method
    assert execute(sweep, last) == 1
    (found,) = sweep.store.folder(last.id).failures()
    return str(found["error"])


@pytest.mark.parametrize(("name", "who"), [("BNAdapt", "BNAdapt"), ("TENT", "TENT with adapts 'batch_norm'")])
def test_a_network_without_batch_norm_is_refused_in_the_users_words(name: str, who: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path, f"ERM+{name}", setting={"steps": 2})
    assert caught.value.problems == (
        f"{who} needs a network with batch norm, which it would not have on RotatedDigits",
    )


def test_each_of_these_predicts_otherwise_than_the_model_and_alike_when_it_is_run_again(tmp_path: Path) -> None:
    """CoTTA and EATA draw random numbers, before the stream and in it."""
    names, fold = ("CoTTA", "EATA", "LAME"), {"train_domains": ["0"], "test_domains": ["75"]}
    how = {"setting": {"steps": 1, **BATCH_NORM}, "hparams": {"CoTTA": {"copies": 1}, "EATA": {"fisher_size": 64}}}
    sweep = execute_all(sweep_of(tmp_path, *(f"ERM+{name}" for name in names), **how, **fold))
    (erm,) = runs_of(sweep, "ERM")
    plain = records_of(sweep.store.folder(erm.id))[-1]["views"]
    for name in names:
        (run,) = runs_of(sweep, name)
        folder = sweep.store.folder(run.id)
        before = records_of(folder)
        for view, scores in before[-1]["views"].items():
            assert math.isfinite(scores["loss"])
            assert scores["loss"] != plain[view]["loss"]
        assert removal.reset(folder, done_too=True)
        assert execute(sweep, run) == 0
        assert records_of(folder) == before


def test_group_norm_and_heads_learn_on_the_digits_own_network(tmp_path: Path) -> None:
    """On the held-out domain each predicts otherwise than the model that it started from, in numbers."""
    how = {"setting": {"steps": 4}, "hparams": {"TENT": {"adapts": "head_norm"}, "SAR": {"margin": 2.0}}}
    sweep = execute_all(sweep_of(tmp_path, "ERM+SAR", "ERM+TENT", "ERM+AdaNPC", **how))
    (erm,) = runs_of(sweep, "ERM")
    held_out = str(erm.fold.test[0])

    def loss(method: str) -> float:
        (run,) = runs_of(sweep, method)
        last = records_of(sweep.store.folder(run.id), "model")[-1]
        assert last["step"] == 3
        return float(last["views"][held_out]["loss"])

    losses = {method: loss(method) for method in ("ERM", "SAR", "TENT", "AdaNPC")}
    assert all(map(math.isfinite, losses.values()))
    assert len(set(losses.values())) == 4


# -- KNN ----------------------------------------------------------------------------------------------------------


def test_knn_is_saved_with_its_queue_averaged_and_adapted(tmp_path: Path) -> None:
    site = Site(device="cpu", save_models="all", save_predictions="chosen")
    rows = ("KNN", "KNN+SWAD", "KNN+SWAD+AdaNPC", "KNN+DiWA", "KNN+DiWA+SAR")
    sweep = execute_all(sweep_of(tmp_path, *rows, site=site, n_hparams=2, setting={"steps": 40}))
    run = runs_of(sweep, "KNN")[0]
    folder = sweep.store.folder(run.id)
    training = training_of(sweep, run)
    for predictor in ("model", "SWAD"):
        kept = load_file(folder.path / "predictions" / f"{predictor}.last.safetensors")
        weights = find_model(folder.path, predictor, LAST).load(CPU)
        for view in run.fold.evaluated:
            logits = predict_view(predict_with(training.algorithm, weights), training.data, view, CPU)
            assert torch.equal(logits, kept[f"{view}/logits"])
            if predictor == "model":
                (last,) = [r for r in records_of(folder, predictor) if r["step"] == 39]
                assert last["views"][str(view)]["accuracy"] > 0.2


def test_knn_has_no_rows_for_t3a(tmp_path: Path) -> None:
    error = failure(tmp_path, "KNN+T3A", "T3A", setting={"steps": 2})
    assert "T3A's first prototypes are the rows of a linear classifier, and this network's is none" in error
