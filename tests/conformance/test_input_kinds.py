"""Inputs that are neither images nor vectors, through the engine: molecules, and what can't read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch.nn import functional as F

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import needs_of
from dgbench.core.protocol import View
from dgbench.core.site import Site
from dgbench.execute.evaluate import predict_view
from dgbench.execute.models import predict_with
from dgbench.launchers.prepare import prepare
from dgbench.networks import network
from dgbench.networks.graphs import GIN
from dgbench.networks.weights import hash_weights_file
from tests.execute.test_fixed_split import TINY, asked, problems, sweep_of, tables
from tests.support.in_process import execute_all, records_of, runs_of, train, training_of
from tests.support.wilds_layouts import WRITERS

COPIES = ("Camelyon17", "CivilComments", "OGBMolPCBA")
MOLECULES: dict[str, Any] = {
    "dataset": "TinyMolecules",
    "setting": {"steps": 3, "checkpoint_freq": 2, "backbone": "auto", "image_size": 0},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wilds")
    for name in COPIES:
        WRITERS[name](folder)
    return folder


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph network that is as narrow as its molecules are few."""
    monkeypatch.setattr(network, "gin", lambda shape: (GIN(width=8, dropout=0.1), 8))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_molecules_are_trained_on_averaged_and_merged(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {**MOLECULES["setting"], "steps": 40, "checkpoint_freq": 39}
    rows = ("ERM", "ERM+SWAD", "ERM+EMA", "ERM+DiWA")
    more = {**MOLECULES, "setting": how, "hparams": {"lr": 3e-3}, "n_hparams": 2}
    sweep = execute_all(sweep_of(tmp_path, data_dir, *rows, **more))
    (found,) = {run.setting for run in sweep.plan.runs}
    assert (found.backbone, found.batch_norm, found.domains_per_step) == ("GIN", "live", 4)
    table = tables(sweep, capsys)["tables"][0]
    assert table["signature"]["metric"] == "ap x 100"
    means = {row["row"]: row["cells"][0]["mean"] for row in table["rows"]}
    assert list(means) == list(rows)
    assert min(means["ERM"], means["ERM+DiWA"]) > 85, "it learns which are long"


@pytest.mark.usefixtures("narrow")
def test_molecules_are_scored_as_wilds_does(data_dir: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, data_dir, "ERM", **MOLECULES)
    training = training_of(sweep, runs_of(sweep, "ERM")[0])
    train(training)
    scores = records_of(training.folder, "model")[-1]["views"]
    source = training.data.examples["official"].source  # type: ignore[attr-defined]
    for part in ("val", "test"):
        view = View("official", part)
        predict, subset = predict_with(training.algorithm), source.get_subset(part)
        logits = predict_view(predict, training.data, view, training.device)
        theirs, _ = source.eval(logits, subset.y_array, subset.metadata_array)
        assert scores[str(view)]["ap"] == theirs["ap"]
        answered = ~subset.y_array.isnan()
        losses = F.binary_cross_entropy_with_logits(logits[answered], subset.y_array[answered])
        assert scores[str(view)]["loss"] == pytest.approx(losses.item(), rel=1e-5)


@pytest.mark.usefixtures("narrow")
def test_a_stopped_run_on_molecules_goes_on_bit_by_bit(data_dir: Path, tmp_path: Path) -> None:
    found = []
    for stops in ((), (2,)):
        sweep = sweep_of(tmp_path / str(len(stops)), data_dir, "ERM+SWAD", **MOLECULES)
        run = runs_of(sweep, "ERM")[0]
        for stop in stops:
            assert train(training_of(sweep, run), stop)
        train(training_of(sweep, run))
        found.append((sweep.store.folder(run.id).path / "records.jsonl").read_bytes())
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_methods_train_on_molecules_or_say_before_why_not(data_dir: Path, tmp_path: Path) -> None:
    catalogue = Catalogue()
    needs = {"classes", "feature_maps", "images", "real_inputs"}
    algorithms, adapters = catalogue.algorithms, catalogue.of_kind("adapter")
    always = {name: {n.what for n in needs_of(entry.card) if not n.when} for name, entry in algorithms.items()}
    unfit = [name for name in algorithms if needs & always[name]]
    asked = [*algorithms, *(f"ERM+{name}" for name in adapters), "ERM+FisherMerging", "ERM+UBGM"]
    told = problems(tmp_path, data_dir, *asked, **MOLECULES, n_hparams=2)
    assert {problem.partition(" ")[0] for problem in told} >= {*unfit, *adapters, "FisherMerging"}
    assert all(" which it would not have on TinyMolecules" in problem for problem in told)
    assert "Mixup needs inputs that are images or vectors, which it would not have on TinyMolecules" in told
    refused = {problem.partition(" ")[0] for problem in told}
    # One of each way to take a step; the question `inputs` of test_questions.py trains every method on graphs.
    trained = {"CORAL", "DANN", "Fish", "GroupDRO", "IGA", "MIRO", "SAM", "VREx"}
    assert trained < {*algorithms} - refused
    sweep = execute_all(sweep_of(tmp_path, data_dir, *sorted(trained), **MOLECULES, hparams={"batch_size": 4}))
    assert {run.method.name for run in sweep.plan.runs} == trained


@pytest.mark.parametrize(
    ("dataset", "setting", "problem"),
    [
        ("TinyMolecules", {"backbone": "resnet18"}, "'resnet18' takes images, and these inputs are graphs (24 x 10)"),
        ("TinyMolecules", {"backbone": "MLP"}, "'MLP' takes vectors or images, and these inputs are graphs (24 x 10)"),
        ("TinyMolecules", {"image_size": 16}, "OGBMolPCBA has molecules, not images: leave out image_size"),
        ("TinyMolecules", {"compile": True}, "'GIN' can't be trained with compile true: it sees other numbers of"),
        ("TinyMolecules", {"classifier_init": "linear_probe"}, "classifier_init 'linear_probe' needs labels that are"),
        ("TinyCamelyon", {"backbone": "GIN"}, "'GIN' takes graphs, and these inputs are images (3 x 96 x 96)"),
        ("TinyComments", {"backbone": "GIN"}, "'GIN' takes graphs, and these inputs are texts (2 x 12)"),
        ("TinyComments", {"backbone": "resnet18"}, "'resnet18' takes images, and these inputs are texts (2 x 12)"),
    ],
)
def test_networks_are_refused_what_they_can_not_read(
    tmp_path: Path, data_dir: Path, dataset: str, setting: dict[str, Any], problem: str
) -> None:
    how = {**MOLECULES["setting"], **setting}
    (told,) = problems(tmp_path, data_dir, "ERM", dataset=dataset, setting=how)
    assert problem in told


def test_frozen_batch_norm_needs_statistics_to_freeze(data_dir: Path, tmp_path: Path) -> None:
    how = {**MOLECULES["setting"], "batch_norm": "frozen"}
    scratch = sweep_of(tmp_path / "scratch", data_dir, "ERM", dataset="TinyMolecules", setting=how)
    assert scratch.plan.runs[0].setting.batch_norm == "live"
    featurizer = {f"network.featurizer.{name}": tensor for name, tensor in GIN().state_dict().items()}
    file = tmp_path / "weights.safetensors"
    save_file(featurizer, file)
    site = Site(data_dir=str(data_dir), include=(str(TINY),), device="cpu", backbone_weights=str(file))
    started = asked("ERM", dataset="TinyMolecules", setting={**how, "weights": hash_weights_file(file)})
    assert (
        prepare(tmp_path / "file", started, site, Catalogue(site.include)).plan.runs[0].setting.batch_norm == "frozen"
    )
