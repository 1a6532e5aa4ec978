"""Every merger over real runs of several algorithms and over an average: what is recorded, and what is chosen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.execute.evaluate import mean_score
from dgbench.execute.models import find_model, predict_with
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.average import Weights
from dgbench.plan.cost import cost_of
from dgbench.report.reader import read_results
from dgbench.report.select import Rated
from dgbench.report.selectors import SELECTORS
from dgbench.store import removal
from tests.support.in_process import CPU, execute, execute_all, records_of, runs_of, scores_of, sweep_of, training_of

BASES = ("ERM", "SAM", "ERM+SWAD")
GREEDY = ("DiWARestricted", "GreedySoup")
OF_ALL = ("DiWA", "UniformSoup", "ModelStock", "FisherMerging", "UBGM", "Ensemble", "EoA")
MERGERS = (*OF_ALL, *GREEDY, "WiSEFT")
MOVED = ("TaskArithmetic", "TIES", "DARE", "LiNeS", "LayerSearch", "KarcherMean", "LERPGrid", "GitReBasin")
HPARAMS = {
    "SMA": {"start": 5},
    "WiSEFT": {"points": 5},
    "TaskArithmetic": {"points": 3},
    "LiNeS": {"points": 2},
    "LayerSearch": {"parts": 1, "points": 2},
    "LERPGrid": {"points": 2},
    "UBGM": {"examples": 20},
    "FisherMerging": {"examples": 20},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """All rows over two runs an algorithm, executed."""
    rows = [f"{base}+{merger}" for base in BASES for merger in MERGERS] + [f"ERM+{merger}" for merger in MOVED]
    return execute_all(
        sweep_of(
            tmp_path_factory.mktemp("merging"),
            *rows,
            site=Site(device="cpu", save_models="all"),
            n_hparams=2,
            setting={"steps": 13},
            space={"lr": "{0.003, 0.01}"},
            hparams=HPARAMS,
        )
    )


def merged(sweep: Sweep, base: str, merger: str) -> list[Run]:
    """The merge runs of a row."""
    return [candidate.run for candidate in sweep.plan.candidates[f"{base}+{merger}", "RotatedDigits"]]


def records(sweep: Sweep, run: Run) -> list[dict[str, Any]]:
    return records_of(sweep.store.folder(run.id), MODEL)


def weights(sweep: Sweep, run: str, predictor: str = MODEL, which: str = BEST) -> Weights:
    return find_model(sweep.store.folder(run).path, predictor, which).load(CPU)


def test_nothing_is_trained_for_a_merger(sweep: Sweep) -> None:
    assert [len(runs_of(sweep, name)) for name in ("ERM", "SAM")] == [2, 2]
    assert {run.method.name for run in sweep.plan.runs if run.kind == "train"} == {"ERM", "SAM"}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("merger", MERGERS)
def test_records_say_which_members_the_model_is_made_of(sweep: Sweep, base: str, merger: str) -> None:
    algorithm, _, average = base.partition("+")
    trained = [run.id for run in runs_of(sweep, algorithm)]
    predictor = average or ("SMA" if merger == "EoA" else MODEL)
    for run in merged(sweep, base, merger):
        inputs = [source.run for source in run.inputs]
        assert {source.predictor for source in run.inputs} == {predictor}
        for record in records(sweep, run):
            if merger in GREEDY:
                assert set(record["members"]) <= set(trained)
                assert record["members"]
            else:
                assert record["members"] == inputs
    found = [source.run for run in merged(sweep, base, merger) for source in run.inputs]
    assert found == trained


def test_tables_say_how_many_runs_a_model_is_merged_from(sweep: Sweep) -> None:
    members = read_results(sweep.root).members
    expected = {f"{base}+{name}": "1" if name == "WiSEFT" else "2" for base in BASES for name in MERGERS}
    assert members == expected | {f"ERM+{name}": "2" for name in MOVED}


@pytest.mark.parametrize("base", BASES)
def test_merged_weights_are_finite_and_of_their_own(sweep: Sweep, base: str) -> None:
    names = ("DiWA", "ModelStock", "FisherMerging", "UBGM")
    found = {name: weights(sweep, merged(sweep, base, name)[0].id) for name in names}
    mean = found["DiWA"]["network.classifier.weight"]
    for name in names:
        assert all(tensor.isfinite().all() for tensor in found[name].values())
        assert name == "DiWA" or not torch.allclose(found[name]["network.classifier.weight"], mean, atol=1e-6)
    soup = weights(sweep, merged(sweep, base, "UniformSoup")[0].id)
    assert all(torch.equal(soup[name], tensor) for name, tensor in found["DiWA"].items())


def test_model_stock_goes_back_towards_the_weights_that_the_runs_began_with(sweep: Sweep) -> None:
    runs = runs_of(sweep, "ERM")
    name = "network.classifier.weight"
    initial = training_of(sweep, runs[0]).algorithm.predictor_tensors()[name]
    one, other = (weights(sweep, run.id)[name] - initial for run in runs)
    cosine = (one * other).sum() / (one.norm() * other.norm())
    t = (2 * cosine / (1 + cosine)).clamp(0, 1)
    found = weights(sweep, merged(sweep, "ERM", "ModelStock")[0].id)[name]
    torch.testing.assert_close(found, initial + t * (one + other) / 2, rtol=0, atol=1e-6)
    assert 0 < t < 1


@pytest.mark.parametrize("merger", MOVED)
def test_mergers_of_displacements_record_each_candidate_and_keep_its_weights(sweep: Sweep, merger: str) -> None:
    (run,) = merged(sweep, "ERM", merger)
    found = records(sweep, run)
    by = {"TaskArithmetic": [0, 2, 1], "LiNeS": [0, 1, 0.5], "LERPGrid": [0, 1, 0.5]}.get(merger)
    assert [record.get("alpha") for record in found] == (by or [None])
    assert [record["step"] for record in found] == list(range(13 - len(found), 13))
    assert all(record["members"] == [source.run for source in run.inputs] for record in found)
    last = weights(sweep, run.id, which=LAST)
    assert all(tensor.isfinite().all() for tensor in last.values())
    if merger in ("TaskArithmetic", "LERPGrid"):
        mean = weights(sweep, merged(sweep, "ERM", "DiWA")[0].id)
        assert all(torch.allclose(tensor, mean[name], atol=1e-6) for name, tensor in last.items())


# -- WiSE-FT ------------------------------------------------------------------------------------------------------


def views_of(sweep: Sweep, run: Run, content: Weights) -> dict[str, Any]:
    """What a record says of those weights."""
    training = training_of(sweep, run)
    return scores_of(predict_with(training.algorithm, content), training.data, run.views)


@pytest.mark.parametrize("base", BASES)
def test_the_ends_of_wise_ft_are_the_initial_and_the_trained_model(sweep: Sweep, base: str) -> None:
    for run in merged(sweep, base, "WiSEFT"):
        (source,) = run.inputs
        (trained,) = (t for t in sweep.plan.runs if t.id == source.run)
        by_alpha = {record["alpha"]: record["views"] for record in records(sweep, run)}
        assert list(by_alpha) == [0, 0.25, 0.75, 1, 0.5]
        initial = {n: t.clone() for n, t in training_of(sweep, trained).algorithm.predictor_tensors().items()}
        assert by_alpha[0] == views_of(sweep, trained, initial)
        assert by_alpha[1] == views_of(sweep, trained, weights(sweep, source.run, source.predictor))


@pytest.mark.parametrize("base", BASES)
def test_selection_picks_among_the_alphas(sweep: Sweep, base: str) -> None:
    results = read_results(sweep.root)
    row = f"{base}+WiSEFT"
    for run in merged(sweep, base, "WiSEFT"):
        found = records(sweep, run)
        assert [record["step"] for record in found] == [8, 9, 10, 11, 12]
        scores = [mean_score(record["views"], run.fold.source_val) for record in found]
        place = scores.index(max(scores))
        steps = {}
        for name in ("training-domain", "oracle"):
            rated = SELECTORS[name].rate(results, row, "RotatedDigits", 0, run.trial, run.hparams_seed)
            assert isinstance(rated, Rated)
            steps[name] = rated.series.steps[rated.place]
        assert steps == {"training-domain": found[place]["step"], "oracle": 12}
        best, last = (find_model(sweep.store.folder(run.id).path, MODEL, which) for which in (BEST, LAST))
        assert (best.step, best.accuracy) == (found[place]["step"], scores[place])
        assert (last.step, last.accuracy) == (12, scores[-1])
        (source,) = run.inputs
        (trained,) = (t for t in sweep.plan.runs if t.id == source.run)
        assert views_of(sweep, trained, best.load(CPU)) == found[place]["views"]


def test_a_linear_probe_makes_the_beginning_of_wise_ft_a_model(sweep: Sweep, tmp_path: Path) -> None:
    probed = execute_all(sweep_of(tmp_path, "WiSEFT", setting={"steps": 3, "classifier_init": "linear_probe"}))
    run = merged(sweep, "ERM", "WiSEFT")[0]
    starts = [records(sweep, run)[0], records(probed, runs_of(probed, "WiSEFT")[0])[0]]
    assert [record["alpha"] for record in starts] == [0, 0]
    random, fitted = (mean_score(record["views"], run.fold.source_val) for record in starts)
    assert random < 0.25 < 0.5 < fitted


def test_runs_whose_networks_follow_others_are_merged_too(tmp_path: Path) -> None:
    """BANG as its paper has it, and mergers that ask for gradients of weights that learn nothing by themselves."""
    rows = ("BANG+WiSEFT", "DCA+DiWA", "DCA+UBGM", "DCA+FisherMerging", "DCA+WiSEFT")
    site = Site(device="cpu", save_models="all")
    hparams = {name: HPARAMS[name] for name in ("WiSEFT", "UBGM", "FisherMerging")}
    found = execute_all(sweep_of(tmp_path, *rows, site=site, n_hparams=2, setting={"steps": 6}, hparams=hparams))
    assert len(runs_of(found, "WiSEFT")) == 4
    mean, *others = (weights(found, runs_of(found, name)[0].id) for name in ("DiWA", "UBGM", "FisherMerging"))
    for other in others:
        assert all(tensor.isfinite().all() and not torch.equal(tensor, mean[name]) for name, tensor in other.items())


def test_quantised_networks_have_gradients_of_single_examples(tmp_path: Path) -> None:
    hparams = {"UBGM": HPARAMS["UBGM"], "QTDoG": {"q_steps": 0}}
    rows = ("QTDoG+DiWA", "QTDoG+UBGM")
    site = Site(device="cpu", save_models="all")
    found = execute_all(sweep_of(tmp_path, *rows, site=site, n_hparams=2, setting={"steps": 6}, hparams=hparams))
    mean, other = (weights(found, runs_of(found, name)[0].id) for name in ("DiWA", "UBGM"))
    assert any(name.endswith(".on") and tensor.item() == 1 for name, tensor in other.items())
    assert any(not torch.equal(tensor, mean[name]) for name, tensor in other.items())


def test_a_sweep_of_twelve_rows_trains_what_its_plan_said(tmp_path: Path) -> None:
    """Counted in the folder, not in the plan: one run an algorithm and hyperparameter seed, however many rows."""
    rows = (
        *("ERM", "ERM+SMA", "ERM+EMA", "ERM+SWAD", "SAM", "SAM+SWAD"),
        *("DiWA", "ERM+SWAD+DiWA", "GreedySoup", "EoA", "T3A", "SAM+SWAD+T3A"),
    )
    assert len(set(rows)) == 12
    hparams = {name: values for name, values in HPARAMS.items() if name == "SMA"}
    swept = execute_all(sweep_of(tmp_path, *rows, n_hparams=2, setting={"steps": 7}, hparams=hparams))
    done = [swept.store.folder(id) for id in swept.store.ids() if swept.store.folder(id).summary()]
    trained = [folder for folder in done if folder.run().kind == "train"]
    assert len(trained) == 4
    assert sum(folder.run().setting.steps for folder in trained) == cost_of(swept.plan, Catalogue()).steps == 4 * 7
    assert len(done) == len(swept.plan.runs) == 4 + 2 + 1 + 1 + 4
    assert all(records_of(folder, MODEL) for folder in done)


# -- what is gone, and live batch norm ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_member_is_named(sweep: Sweep, tmp_path: Path, place: int) -> None:
    shutil.copytree(sweep.root, tmp_path, dirs_exist_ok=True)
    copy = dataclasses.replace(sweep, root=tmp_path)
    gone = copy.store.folder(runs_of(sweep, "ERM")[place].id)
    shutil.rmtree(gone.path / "models")
    for merger in MERGERS:
        runs = [run for run in merged(copy, "ERM", merger) if gone.id in [source.run for source in run.inputs]]
        (run,) = runs
        folder = copy.store.folder(run.id)
        assert removal.reset(folder, done_too=True)
        assert execute(copy, run) == 1, merger
        (failure,) = folder.failures()
        assert failure["error"].startswith(f"FileNotFoundError: {gone.path}/models/"), merger
        assert folder.summary() is None


NORMED = '''
from torch import nn
from dgbench.algorithms.erm import ERM
from dgbench.core.cards import AlgorithmCard
from dgbench.networks.network import Network

class Normed(ERM):
    """ERM on a network with batch norm."""

    card = AlgorithmCard(paper="none")

    @classmethod
    def make_network(cls, input_shape, num_classes, hparams, setting):
        layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return Network(nn.Sequential(*layers), 32, num_classes, setting)
'''


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Merged models under live batch norm."""
    root = tmp_path_factory.mktemp("normed")
    (root / "normed.py").write_text(NORMED)
    site = Site(device="cpu", save_models="all", include=(str(root / "normed.py"),))
    rows = [f"Normed+{merger}" for merger in ("DiWA", "WiSEFT", "UBGM", "GreedySoup")]
    setting = {"steps": 12, "batch_norm": "live"}
    hparams = {"UBGM": {"examples": 20}, "WiSEFT": {"points": 2}, "lr": 0.01}
    return execute_all(sweep_of(root / "sweep", *rows, site=site, n_hparams=2, setting=setting, hparams=hparams))


@pytest.mark.parametrize("merger", ["DiWA", "WiSEFT", "UBGM", "GreedySoup"])
def test_a_merged_model_has_the_statistics_of_its_own_weights(normed: Sweep, merger: str) -> None:
    """Those of its first layer's outputs on the minibatches of training, the mean over all of them."""
    run = runs_of(normed, merger)[0]
    found = weights(normed, run.id)
    (trained,) = (t for t in normed.plan.runs if t.id == run.inputs[0].run)
    training = training_of(normed, trained)
    means, variances = [], []
    for minibatch in Minibatches(training.data, trained).between(0, 12, workers=0):
        x = torch.cat([training.algorithm.network.prepare(x) for x, *_ in minibatch])
        maps = torch.conv2d(x, found["network.featurizer.0.weight"], found["network.featurizer.0.bias"])
        means.append(maps.mean((0, 2, 3)))
        variances.append(maps.transpose(0, 1).flatten(1).var(1))
    torch.testing.assert_close(found["network.featurizer.1.running_mean"], torch.stack(means).mean(0))
    torch.testing.assert_close(found["network.featurizer.1.running_var"], torch.stack(variances).mean(0))
    for source in run.inputs:
        theirs = weights(normed, source.run)["network.featurizer.1.running_var"]
        assert not torch.allclose(found["network.featurizer.1.running_var"], theirs, rtol=1e-3)
