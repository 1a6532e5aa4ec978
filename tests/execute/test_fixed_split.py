"""Data sets with splits of their own, from planning to tables."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dgbench import cli, collect
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UserError
from dgbench.core.protocol import FixedSplit, Fold, LeaveOneDomainOut, View
from dgbench.core.run import BEST
from dgbench.core.site import Site
from dgbench.data.views import Minibatches, ViewData
from dgbench.datasets import _texts
from dgbench.execute.models import find_model
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from dgbench.train import main as by_hand
from tests.support.in_process import execute_all, records_of, runs_of, train, training_of
from tests.support.language_models import save_model
from tests.support.places import EXAMPLES
from tests.support.wilds_layouts import WRITERS

TINY = EXAMPLES / "tiny_wilds.py"
COPIES = {
    "TinyCamelyon": "Camelyon17",
    "TinyComments": "CivilComments",
    "TinyPoverty": "PovertyMap",
    "TinyMolecules": "OGBMolPCBA",
}
SMALL = '{"backbone": "MLP", "image_size": 16, "batch_size": 16, "lr": 0.001}'


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wilds")
    for name in COPIES.values():
        WRITERS[name](folder)
    return folder


def asked(*rows: str, dataset: str = "TinyCamelyon", **more: Any) -> dict[str, Any]:
    return {
        "algorithms": list(rows),
        "datasets": [dataset],
        "n_hparams": 1,
        "n_trials": 1,
        **more,
        "setting": {"steps": 9, "checkpoint_freq": 4, "backbone": "MLP", "image_size": 16, **more.get("setting", {})},
        "hparams": {"batch_size": 8, **more.get("hparams", {})},
    }


def sweep_of(root: Path, data_dir: Path, *rows: str, **more: Any) -> Sweep:
    site = Site(data_dir=str(data_dir), include=(str(TINY),), device="cpu")
    sweep = prepare(root, asked(*rows, **more), site, Catalogue(site.include))
    sweep.write()
    return sweep


def problems(tmp_path: Path, data_dir: Path, *rows: str, **more: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path, data_dir, *rows, **more)
    return caught.value.problems


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Camelyon17 by methods that know domains by number, with an average, a merger and an adapter."""
    return execute_all(small_sweep(tmp_path_factory.mktemp("camelyon"), data_dir))


def small_sweep(root: Path, data_dir: Path, **more: Any) -> Sweep:
    rows = ("ERM", "ERM+SWAD", "GroupDRO", "Fish", "ERM+DiWA", "ERM+T3A")
    return sweep_of(root, data_dir, *rows, n_hparams=2, n_trials=2, setting={"domains_per_step": 2}, **more)


def test_the_protocol_is_that_of_the_data_set(finished: Sweep) -> None:
    assert finished.declaration.protocol == FixedSplit.name
    (fold,) = {run.fold for run in finished.plan.runs}
    assert fold.held_out == ("official",)
    assert [str(view) for view in fold.evaluated] == ["official/val", "official/test"]
    assert [str(view) for view in fold.validation] == ["official/val"]
    assert all(run.setting.domains_per_step == 2 for run in finished.plan.runs)


def test_hospitals_are_the_training_domains(finished: Sweep, data_dir: Path) -> None:
    run = runs_of(finished, "ERM")[0]
    dataset = open_dataset("TinyCamelyon", finished.site, Catalogue(finished.site.include))
    data = ViewData(dataset, run)
    assert [str(view) for view in data.train] == ["official/train:0", "official/train:3", "official/train:4"]
    examples = dataset.examples("official", 0)
    for view, hospital in zip(data.train, (0, 3, 4), strict=True):
        assert set(examples.domains[data.indices[view]]) == {hospital}
        assert data.size(view) == 16
    seen, minibatches = set[tuple[int, ...]](), Minibatches(data, run)
    for step in range(30):
        minibatch = minibatches[step]
        numbers = tuple(number for *_, number in minibatch)
        assert numbers == tuple(sorted(set(numbers)))
        assert len(numbers) == 2
        seen.add(numbers)
        for x, y, positions, number in minibatch:
            chosen = data.indices[data.train[number]][positions.numpy()]
            assert np.array_equal(x, examples.batch(chosen, None))
            assert np.array_equal(y, examples.labels[chosen])
        again = Minibatches(data, run)[step]
        for one, two in zip(minibatch, again, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert seen == {(0, 1), (0, 2), (1, 2)}


def test_each_record_has_the_data_sets_own_metric(finished: Sweep) -> None:
    for run in finished.plan.runs:
        for record in records_of(finished.store.folder(run.id)):
            assert set(record["views"]) == {"official/val", "official/test"}
            for scores in record["views"].values():
                assert scores["acc_avg"] == pytest.approx(scores["accuracy"])


def test_a_run_by_hand_names_the_split(tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--algorithm", "ERM", "--dataset", "TinyCamelyon", "--include", str(TINY)]
    words += ["--data_dir", str(data_dir), "--output_dir", str(tmp_path / "out"), "--threads", "1", "--device", "cpu"]
    words += ["--steps", "3", "--hparams", '{"batch_size": 8, "backbone": "MLP", "image_size": 16}']
    assert cli.run(by_hand, words) == 0
    assert "model selection method: validation domains" in capsys.readouterr().out
    torch.set_num_threads(1)


def tables(sweep: Sweep, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert collect.main(["--input_dir", str(sweep.root), "--format", "json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_tables_select_on_val_first_and_say_what_they_measure(
    finished: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tables(finished, capsys)
    assert [table["selector"] for table in report["tables"]] == ["validation-domain"] * 2
    assert report["absent"] == []
    table = report["tables"][0]
    assert table["columns"] == ["official", "Avg"]
    assert table["signature"]["protocol"] == "fixed-split"
    assert table["signature"]["metric"] == "acc_avg x 100"
    assert table["reads"].startswith("mean acc_avg on the domains that were kept for validation")
    picks = {row["row"]: [trial["pick"] for trial in row["cells"][0]["trials"]] for row in table["rows"]}
    for pick in picks["ERM"]:
        (record,) = [
            record
            for record in records_of(finished.store.folder(pick["run"]), "model")
            if record["step"] == pick["step"]
        ]
        assert pick["score"] == record["views"]["official/test"]["acc_avg"]
        assert pick["value"] == record["views"]["official/val"]["acc_avg"]
        assert pick["in_domain"] is None
    assert table["signature"]["validation"] == "ood (val) for all that is chosen"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"single_test_envs": True}, "with fixed splits leaves no choice of protocol: leave out --single_test_envs"),
        ({"test_domains": ["val"]}, "leave out --test_domains"),
        ({"test_envs": ["hospital"]}, "unknown domain"),
        ({"datasets": ["TinyCamelyon", "RotatedDigits"]}, "RotatedDigits without need two; launch two sweeps"),
        ({"setting": {"domains_per_step": 1}}, "CORAL needs at least 2 training domains in a step"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, data_dir: Path, more: dict[str, Any], problem: str) -> None:
    assert any(problem in told for told in problems(tmp_path, data_dir, "CORAL", **more))


@pytest.mark.parametrize(("asked_for", "part"), [("ood", "val"), ("id", "id_val")])
def test_all_that_is_chosen_is_chosen_by_the_one_part_that_is_asked_for(
    asked_for: str, part: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The selector, the members of mergers, the best model that is adapted, a teacher, SWAD, what UDIM hears."""
    rows = ("ERM+SWAD", "ERM+DiWA", "ERM+T3A", "KD", "Heard")
    heard = tmp_path / "heard.py"
    heard.write_text(HEARD)
    site = Site(data_dir=str(data_dir), include=(str(TINY), str(heard)), device="cpu")
    asked_of = asked(*rows, n_hparams=2, validation=asked_for)
    sweep = prepare(tmp_path / "sweep", asked_of, site, Catalogue(site.include))
    sweep.write()
    execute_all(sweep)
    view = f"official/{part}"
    for run in sweep.plan.runs:
        records = records_of(sweep.store.folder(run.id))
        assert all(set(record["views"]) == {view, "official/test"} for record in records)
        for predictor in sweep.plan.read_by_others.get(run.id, {}):
            scores = [r["views"][view]["acc_avg"] for r in records if r["predictor"] == predictor]
            assert find_model(sweep.store.folder(run.id).path, predictor, BEST).accuracy == max(scores)
        if run.method.name == "Heard":
            scores = [record["views"][view]["acc_avg"] for record in records]
            assert [record["train"]["heard"] for record in records[1:]] == scores[:-1]
    report = tables(sweep, capsys)
    selector = {"ood": "validation-domain", "id": "training-domain"}[asked_for]
    assert {table["selector"] for table in report["tables"]} == {selector}
    assert report["tables"][0]["signature"]["validation"] == f"{asked_for} ({part}) for all that is chosen"


HEARD = """
import torch
from dgbench import Algorithm, AlgorithmCard


class Heard(Algorithm):
    \"\"\"ERM that logs what it last heard of its validation.\"\"\"

    card = AlgorithmCard(paper="none")
    last = 0.0

    def update(self, batches):
        self.descend(self.joint_loss(batches))
        return {"heard": torch.tensor(self.last, dtype=torch.float64)}

    def validated(self, accuracy):
        self.last = accuracy
"""


def test_what_is_validated_on_is_refused_where_it_can_not_be_had(data_dir: Path, tmp_path: Path) -> None:
    assert problems(tmp_path, data_dir, "ERM", validation="out") == ("unknown --validation 'out': there are id, ood",)
    told = problems(tmp_path, data_dir, "ERM", dataset="TinyComments", validation="id")
    assert told == ("TinyComments: --validation id: the data set has no such part (train, val, test)",)
    told = problems(tmp_path, data_dir, "ERM", dataset="TinyHospitals", validation="ood")
    assert told == ("--validation is for data with fixed splits, which TinyHospitals lacks",)
    sweep_of(tmp_path, data_dir, "ERM")
    assert problems(tmp_path, data_dir, "ERM", validation="id") == (
        f"{tmp_path} holds a sweep with --validation ood, not id: use another folder",
    )


@pytest.fixture
def comments(data_dir: Path, tmp_path: Path) -> Sweep:
    return sweep_of(tmp_path / "comments", data_dir, "ERM", "GroupDRO", dataset="TinyComments")


def test_a_data_set_without_id_val_is_watched_and_selected_by_val(
    comments: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    execute_all(comments)
    (fold,) = {run.fold for run in comments.plan.runs}
    assert fold.source_val == ()
    assert fold.validation == fold.target_val == (View("official", "val"),)
    report = tables(comments, capsys)
    assert [table["selector"] for table in report["tables"]] == ["validation-domain"] * 2
    assert report["tables"][0]["signature"]["metric"] == "acc_wg x 100"
    record = records_of(comments.store.folder(runs_of(comments, "ERM")[0].id))[-1]
    assert record["views"]["official/test"]["acc_wg"] <= record["views"]["official/test"]["accuracy"]


def test_the_best_model_is_the_best_on_what_training_may_watch(comments: Sweep) -> None:
    run = runs_of(comments, "ERM")[0]
    training = training_of(comments, run, keep={"model": (BEST,)})
    train(training)
    views = [record["views"] for record in records_of(training.folder)]
    best, of_test = (max(of[f"official/{part}"]["acc_wg"] for of in views) for part in ("val", "test"))
    assert find_model(training.folder.path, "model", BEST).accuracy == best
    assert best != of_test, "or this would not tell what was watched"


def test_a_language_model_reads_the_texts(data_dir: Path, tmp_path: Path) -> None:
    setting = {"backbone": save_model(tmp_path / "model"), "steps": 3, "checkpoint_freq": 2}
    rows = ("ERM", "ERM+SWAD", "Fishr")
    sweep = execute_all(sweep_of(tmp_path / "sweep", data_dir, *rows, dataset="TinyComments", setting=setting))
    training = training_of(sweep, runs_of(sweep, "ERM")[0])
    assert training.data.input_shape == (2, 12)
    names = [name for name, _ in training.algorithm.network.named_parameters()]
    assert "featurizer.model.embeddings.word_embeddings.weight" in names


def test_words_that_can_not_be_read_are_told_before_any_run_starts(data_dir: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    made = sweep_of(tmp_path / "sweep", data_dir, "ERM", dataset="TinyComments", setting={"backbone": model})
    made.ensure_inputs()
    Path(model, "vocab.txt").unlink()
    _texts._tokenizer.cache_clear()
    with pytest.raises(UserError, match=r"the vocabulary of .*model.* could not be had"):
        made.ensure_inputs()


def test_pooled_hospitals_are_left_out_one_by_one(data_dir: Path, tmp_path: Path) -> None:
    setting = {"image_size": 16, "steps": 2, "checkpoint_freq": 1}
    more = {"test_envs": ["2"], "single_test_envs": True, "setting": setting}
    sweep = execute_all(sweep_of(tmp_path, data_dir, "ERM", dataset="TinyHospitals", **more))
    (record, *_) = records_of(sweep.store.folder(sweep.plan.runs[0].id))
    assert {view: scores["n"] for view, scores in record["views"].items()} == {
        **{f"hospital_{n}/out": 4 for n in (0, 1, 3, 4)},
        "hospital_2/in": 16,
        "hospital_2/out": 4,
    }
    assert sweep.declaration.protocol == LeaveOneDomainOut.name
    told = problems(tmp_path / "both", data_dir, "ERM", datasets=["TinyCamelyon", "TinyHospitals"])
    assert any("launch two sweeps, in two folders" in problem for problem in told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "metric", "hparams"),
    [
        ("TinyCamelyon", "acc_avg", SMALL),
        ("TinyComments", "acc_wg", SMALL),
        ("TinyMolecules", "ap", '{"batch_size": 8}'),
    ],
)
@pytest.mark.usefixtures("preloaded")
def test_the_commands_launch_and_collect_them(
    data_dir: Path, tmp_path: Path, dataset: str, metric: str, hparams: str
) -> None:
    words = ["--algorithms", "ERM", "CORAL", "ERM+SWAD", "--datasets", dataset, "--n_hparams", "1", "--n_trials", "2"]
    words += ["--steps", "40", "--checkpoint_freq", "20", "--include", str(TINY), "--data_dir", str(data_dir)]
    words += ["--hparams", hparams]
    words += ["--device", "cpu", "--jobs", "2", "--output_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "dgbench.sweep", "launch", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "dgbench.collect", "--input_dir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"-------- Dataset: {dataset}, model selection method: validation domains" in done.stdout
    assert f"# protocol: fixed-split | metric: {metric} x 100 | preset: " in done.stdout
    of_erm = next(line.split() for line in done.stdout.splitlines() if line.startswith("ERM "))
    assert float(of_erm[1]) > 70, "bright patches hold tumour, awful comments are toxic, and long molecules are long"


def test_there_are_no_averages_over_different_metrics(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of(tmp_path, data_dir, "ERM", datasets=["TinyCamelyon", "TinyComments"])
    report = tables(execute_all(sweep), capsys)
    assert [table["dataset"] for table in report["tables"]] == ["TinyCamelyon", "TinyComments"]
    of = "TinyCamelyon acc_avg, TinyComments acc_wg"
    assert report["absent"] == [f"validation-domain: no averages over data sets of different metrics ({of})"]


def test_regression_is_trained_by_squared_error_and_folds_are_columns(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "dataset": "TinyPoverty",
        "test_envs": ["A", "C"],
        "setting": {"steps": 4, "checkpoint_freq": 3, "image_size": 0},
    }
    sweep = execute_all(sweep_of(tmp_path, data_dir, "ERM", "ERM+EMA", "VREx", **more))
    table = tables(sweep, capsys)["tables"][0]
    assert table["columns"] == ["A", "C", "Avg"]
    assert table["signature"]["metric"] == "r_wg x 100"
    scores = records_of(sweep.store.folder(runs_of(sweep, "ERM")[0].id))[-1]["views"]["A/test"]
    assert set(scores) == {"loss", "n", "r_wg", "r_all", "mse_avg"}
    assert scores["loss"] == pytest.approx(scores["mse_avg"], rel=1e-5)


def test_what_needs_classes_is_refused_where_there_are_none(tmp_path: Path, data_dir: Path) -> None:
    rows = ("ERM", "Mixup", "IRM", "ERM+T3A", "ERM+DiWA", "ERM+FisherMerging")
    setting = {"class_balanced": True, "classifier_init": "linear_probe", "image_size": 0}
    told = problems(tmp_path, data_dir, *rows, dataset="TinyPoverty", n_hparams=2, setting=setting)
    assert told == (
        *(
            f"{n} needs labels that are classes, which it would not have on TinyPoverty"
            for n in ("IRM", "T3A", "FisherMerging")
        ),
        "class_balanced needs labels that are classes, which TinyPoverty has not",
        "classifier_init 'linear_probe' needs labels that are classes, which TinyPoverty has not",
    )


@pytest.mark.parametrize("dataset", ["GlobalWheat"])
def test_what_sweeps_do_not_support_is_refused_with_the_reason(tmp_path: Path, data_dir: Path, dataset: str) -> None:
    (told,) = problems(tmp_path, data_dir, "ERM", dataset=dataset)
    assert told.startswith(f"{dataset} is not supported: ")


def test_a_folder_whose_folds_have_both_validation_sets_stays_readable(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = FixedSplit.folds

    def both(self: FixedSplit, domains: Sequence[str], **known: Sequence[str]) -> Iterator[Fold]:
        for fold in folds(self, domains, **known):
            yield dataclasses.replace(fold, source_val=(View(fold.held_out[0], "id_val"),))

    with monkeypatch.context() as patch:  # as sweeps were planned before one set was for all that is chosen
        patch.setattr(FixedSplit, "folds", both)
        old = execute_all(sweep_of(tmp_path, data_dir, "ERM", "ERM+T3A"))
    shown = tables(old, capsys, "--selector", "training-domain", "validation-domain")
    found = {table["selector"]: table for table in shown["tables"] if table["dataset"]}
    assert list(found) == ["training-domain", "validation-domain"]
    for table in found.values():
        assert [row["row"] for row in table["rows"]] == ["ERM", "ERM+T3A"]
        assert not any(cell["gaps"] for row in table["rows"] for cell in row["cells"])
        assert table["signature"]["validation"] == "id (id_val) for averages, members, teachers and adapters"
