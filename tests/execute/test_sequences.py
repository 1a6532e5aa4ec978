"""Data that ask for the token at each place, from planning to tables: what trains on them, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dgbench import collect
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.cards import needs_of
from dgbench.core.errors import UserError
from dgbench.core.run import BEST, MODEL, Run
from dgbench.core.site import Site
from dgbench.data.dataset import NOT_ASKED
from dgbench.data.views import ViewData
from dgbench.execute.models import find_model
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from tests.support.in_process import CPU, execute_all, records_of, runs_of, training_of
from tests.support.language_models import save_causal_model
from tests.support.places import EXAMPLES
from tests.support.wilds_layouts import write_py150

pytest.importorskip("transformers", reason="extra `text` is not installed")
TINY = EXAMPLES / "tiny_wilds.py"
TOKENS, LENGTH = 30, 23
EMBEDDING = "network.featurizer.model.wte.weight"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wilds")
    write_py150(folder, files=6, length=LENGTH + 1, vocabulary=TOKENS)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return save_causal_model(tmp_path_factory.mktemp("model"), TOKENS, LENGTH)


def sweep_of(root: Path, data_dir: Path, model: str, *rows: str, **more: Any) -> Sweep:
    site = Site(data_dir=str(data_dir), include=(str(TINY),), device="cpu", save_predictions="chosen")
    asked = {
        "algorithms": list(rows),
        "datasets": ["TinyPy150"],
        "n_hparams": 2,
        "n_trials": 1,
        **more,
        "setting": {"backbone": model, "steps": 21, "checkpoint_freq": 10, **more.get("setting", {})},
    }
    sweep = prepare(root, asked, site, Catalogue(site.include))
    sweep.write()
    return sweep


@pytest.fixture(scope="module")
def finished(data_dir: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Trained, averaged and merged in both ways; the language model has learnt nothing before."""
    rows = ("ERM", "ERM+EMA", "ERM+SWAD", "ERM+DiWA", "ERM+Ensemble", "GroupDRO")
    more: dict[str, Any] = {"setting": {"pretrained": False}, "space": {"lr": "{0.01}"}, "hparams": {"lr": 0.01}}
    return execute_all(sweep_of(tmp_path_factory.mktemp("sequences"), data_dir, model, *rows, **more))


def data_of(sweep: Sweep, run: Run) -> ViewData:
    return ViewData(open_dataset("TinyPy150", sweep.site, Catalogue(sweep.site.include)), run)


def saved_logits(sweep: Sweep, run: Run, predictor: str = MODEL) -> dict[str, Any]:
    content = load_file(sweep.store.folder(run.id).path / "predictions" / f"{predictor}.last.safetensors")
    return {name.removesuffix("/logits"): value for name, value in content.items() if name.endswith("/logits")}


def test_domains_are_repositories_and_minibatches_are_small(finished: Sweep) -> None:
    run = runs_of(finished, "ERM")[0]
    assert run.method.hparams["batch_size"] == 2
    training = training_of(finished, run)
    assert [str(view) for view in training.data.train] == ["official/train:0", "official/train:1"]
    assert training.algorithm.task.kind == "tokens"
    assert training.data.outputs == LENGTH * TOKENS


def test_what_is_recorded_is_wilds_own_evaluation_of_every_predictor(finished: Sweep) -> None:
    compared = 0
    for run in finished.plan.runs:
        data = data_of(finished, run)
        for record in records_of(finished.store.folder(run.id)):
            if record["step"] < 20:
                continue
            for view, logits in saved_logits(finished, run, record["predictor"]).items():
                (key,) = (each for each in run.views if str(each) == view)
                scores, y = record["views"][view], torch.from_numpy(data.labels(key))
                examples = data.examples["official"]
                rows = examples.rows[data.indices[key]]  # type: ignore[attr-defined]
                source = examples.source  # type: ignore[attr-defined]
                theirs, _ = source.eval(logits.argmax(-1), source.y_array[rows], source.metadata_array[rows])
                assert {name: scores[name] for name in ("acc", "Acc (Overall)")} == {
                    name: pytest.approx(theirs[name]) for name in ("acc", "Acc (Overall)")
                }
                asked = y != NOT_ASKED
                log_p = logits.double()[asked].log_softmax(-1)
                loss = -log_p[torch.arange(len(log_p)), y[asked]].mean().item()
                assert scores["loss"] == pytest.approx(loss, rel=1e-9)
                assert set(scores) == {"loss", "n", "acc", "Acc (Overall)"}
                compared += 1
    assert compared == 2 * (2 * 3 + 2 * 1 + 1 + 1), "ERM with two averages, GroupDRO, a merger and an ensemble"


def test_it_learns_to_count(finished: Sweep) -> None:
    for method in ("ERM", "GroupDRO"):
        first, *_, last = (
            r["views"] for r in records_of(finished.store.folder(runs_of(finished, method)[0].id), MODEL)
        )
        assert first["official/test"]["Acc (Overall)"] < 0.4
        assert last["official/test"]["Acc (Overall)"] > 0.8


def test_an_ensemble_is_the_mean_of_the_logits_and_a_merged_model_of_the_weights(finished: Sweep) -> None:
    members = [
        find_model(finished.store.folder(run.id).path, MODEL, BEST).load(CPU) for run in runs_of(finished, "ERM")
    ]
    assert [name for name in members[0] if name.startswith("network.classifier")] == []
    training = training_of(finished, runs_of(finished, "ERM")[0])
    algorithm, data = training.algorithm, training.data
    (ensemble,), (merged,) = runs_of(finished, "Ensemble"), runs_of(finished, "DiWA")
    x = {str(view): data.inputs(view, np.arange(data.size(view))) for view in ensemble.views}
    each: list[dict[str, Any]] = []
    means = {name: (members[0][name] + members[1][name]) / 2 for name in members[0]}
    for weights in (*members, means):
        algorithm.load_state_dict(weights)
        algorithm.eval()
        with torch.no_grad():
            each.append({view: algorithm(inputs) for view, inputs in x.items()})
    for view, logits in saved_logits(finished, ensemble).items():
        torch.testing.assert_close(logits.float(), (each[0][view] + each[1][view]) / 2)
    for view, logits in saved_logits(finished, merged).items():
        torch.testing.assert_close(logits, each[2][view], rtol=1e-4, atol=1e-4)


def test_tables_are_of_the_data_sets_own_metric(finished: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect.main(["--input_dir", str(finished.root), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    table = report["tables"][0]
    assert table["signature"]["metric"] == "acc x 100"
    assert {row["row"] for row in table["rows"]} == set(finished.plan.rows)


def test_training_starts_from_the_language_models_own_output(data_dir: Path, model: str, tmp_path: Path) -> None:
    import transformers

    sweep = sweep_of(tmp_path, data_dir, model, "ERM", n_hparams=1)
    training = training_of(sweep, sweep.plan.runs[0])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(model).eval()
    x = training.data.inputs(sweep.plan.runs[0].views[0], np.arange(3))
    torch.testing.assert_close(training.algorithm.eval()(x), theirs(x).logits)
    assert [name for name in training.algorithm.predictor_tensors() if "wte" in name] == [EMBEDDING]


def problems(*arguments: Any, **more: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        sweep_of(*arguments, **more)
    return caught.value.problems


def test_what_can_not_be_had_of_sequences_is_refused_in_words(data_dir: Path, model: str, tmp_path: Path) -> None:
    rows = ("ERM+T3A", "Mixup", "CORAL", "MixStyle", "Transfer", "ERM+FisherMerging")
    setting = {"freeze": "featurizer", "class_balanced": True}
    assert problems(tmp_path, data_dir, model, *rows, setting=setting) == (
        "T3A needs labels that are classes, which it would not have on TinyPy150",
        "Mixup needs inputs that are images or vectors, which it would not have on TinyPy150",
        "CORAL needs one vector of features an example, which it would not have on TinyPy150",
        "MixStyle needs images and a convolutional backbone with maps of several positions before its last stage, "
        "which it would not have on TinyPy150",
        "Transfer needs a classifier with weights of its own, which it would not have on TinyPy150",
        "FisherMerging needs labels that are classes, which it would not have on TinyPy150",
        "class_balanced needs labels that are classes, which TinyPy150 has not",
        "on TinyPy150 the classifier is the language model's own, so freeze can't be 'featurizer': nothing would learn",
    )
    (told,) = problems(tmp_path, data_dir, "MLP", "ERM")
    assert told == "backbone 'MLP' takes vectors or images, and these inputs are sequences (23): leave it out"
    sweep_of(tmp_path, data_dir, model, "Transfer", "ERMPlusPlus", setting={"nonlinear_classifier": True})


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{}, {"nonlinear_classifier": True}])
def test_every_algorithm_trains_or_is_refused(
    data_dir: Path, model: str, tmp_path: Path, setting: dict[str, Any]
) -> None:
    names = {*Catalogue().algorithms}
    short = {"steps": 3, "checkpoint_freq": 2, **setting}

    def trains(name: str) -> bool:
        try:
            sweep = sweep_of(tmp_path / name, data_dir, model, name, setting=short)
        except UserError as error:
            if not all(problem.startswith(f"{name} needs ") for problem in error.problems):
                raise
            return False
        execute_all(sweep)
        return True

    trained = set(filter(trains, names))
    assert {"ERM", "SAM", "VREx", "Fish", "GroupDRO", "GR", "IGA", "MIRO", "MLDG", "SANDMask"} <= trained
    assert ("ERMPlusPlus" in trained) == bool(setting)
    assert {"Mixup", "CORAL", "DANN", "MTL", "IRM", "MixStyle", "KD"} <= names - trained


@pytest.mark.slow
def test_every_average_and_every_merger_of_weights_or_logits_works(data_dir: Path, model: str, tmp_path: Path) -> None:
    entries = Catalogue().entries.values()
    rows = [f"ERM+{entry.name}" for entry in entries if entry.kind in ("average", "merger")]
    of_others = {  # gradients by class, and units that can be matched
        f"ERM+{entry.name}"
        for entry in entries
        if entry.kind == "merger" and {"classes", "units"} & {need.what for need in needs_of(entry.card)}
    }
    assert len(problems(tmp_path / "all", data_dir, model, *rows, setting={"init": "sweep"})) == len(of_others) == 3
    rows = [row for row in rows if row not in of_others]
    sweep = execute_all(sweep_of(tmp_path / "some", data_dir, model, *rows, setting={"init": "sweep"}))
    assert len(sweep.plan.rows) == len(rows) > 12


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_the_commands_launch_and_collect_sequences(data_dir: Path, model: str, tmp_path: Path) -> None:
    words = ["--algorithms", "ERM", "ERM+SMA", "ERM+Ensemble", "--datasets", "TinyPy150", "--n_hparams", "2"]
    words += ["--n_trials", "1", "--steps", "21", "--checkpoint_freq", "10", "--include", str(TINY)]
    words += ["--hparams", json.dumps({"backbone": model, "lr": 0.01}), "--data_dir", str(data_dir)]
    words += ["--device", "cpu", "--jobs", "2", "--output_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "dgbench.sweep", "launch", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "dgbench.collect", "--input_dir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "# protocol: fixed-split | metric: acc x 100 | preset: " in done.stdout
    found = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ERM")}
    assert set(found) == {"ERM", "ERM+SMA", "ERM+Ensemble"}
    assert min(found.values()) > 80, "files count"
