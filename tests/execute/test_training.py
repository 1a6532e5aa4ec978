"""The loop: what watches it, what it keeps, how it stops and goes on, and what it never looks at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dgbench.core.protocol import IN, OUT, View
from dgbench.core.run import BEST, LAST
from dgbench.core.site import Site
from dgbench.data.views import Minibatch
from dgbench.execute.evaluate import evaluate
from dgbench.execute.models import find_model, predict_with
from dgbench.execute.training import Training
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.algorithm import Algorithm
from dgbench.store.lease import Stopped
from dgbench.store.run_folder import RunFolder
from tests.support.in_process import CPU, Patience, records_of, scores_of, sweep_of, train, training_of
from tests.support.layouts import write_folders

WATCHED = ("{}", "{}+SWAD", "{}+SMA", "{}+EMA", "{}+BMA", "{}+IIDMax")
AVERAGES = {"SMA": {"start": 4}, "SWAD": {"n_converge": 1, "n_tolerance": 1}, "EMA": {"decay": 0.8}}
AT_THE_END = ("BMA", "SWAD")
KEEP = ("model", "SMA", "EMA", "IIDMax", *AT_THE_END)
BOTH = dict.fromkeys(KEEP, (BEST, LAST))


def only(sweep: Sweep) -> Training:
    (run,) = sweep.plan.runs
    return training_of(sweep, run)


def files(folder: RunFolder) -> dict[str, bytes]:
    """The records and the models of a run, these without their heads, in which safetensors lets order vary."""
    found = {"records.jsonl": (folder.path / "records.jsonl").read_bytes()}
    for path in (folder.path / "models").iterdir():
        content = path.read_bytes()
        found[path.name] = content[8 + int.from_bytes(content[:8], "little") :]
    return found


@pytest.mark.parametrize("algorithm", ["ERM", "Fish"])
def test_averages_that_watch_change_nothing(algorithm: str, tmp_path: Path) -> None:
    found = []
    for rows in (WATCHED, WATCHED[:1]):
        names = [row.format(algorithm) for row in rows]
        hparams = {"resnet_dropout": 0.5, **(AVERAGES if len(rows) > 1 else {})}
        training = only(sweep_of(tmp_path / str(len(rows)), *names, hparams=hparams))
        train(training)
        found.append(training)
    watched, alone = found
    assert records_of(watched.folder, "model") == records_of(alone.folder)
    assert same_weights(watched.algorithm.state_dict(), alone.algorithm.state_dict())
    for predictor in KEEP:
        steps = [record["step"] for record in records_of(watched.folder, predictor)]
        assert steps == ([19] if predictor in AT_THE_END else [*STEPS])


# -- what it keeps ------------------------------------------------------------------------------------------------


STEPS = (0, 6, 12, 18, 19)


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Step -> what the training-domain validation accuracy shall be there."""
    script: dict[int, float] = {}
    now, evaluate_at = [0], Training._evaluate

    def noting(self: Training, step: int) -> None:
        now[0] = step
        evaluate_at(self, step)

    monkeypatch.setattr(Training, "_evaluate", noting)
    monkeypatch.setattr("dgbench.execute.training.mean_score", lambda scores, views, metric: script[now[0]])
    return script


@pytest.mark.parametrize(
    ("script", "best"),
    [
        ([0.5, 0.7, 0.7, 0.6, 0.7], 6),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 19),
        ([0.0] * 5, 0),
        ([0.5, 0.4, 0.3, 0.6, 0.5], 18),
        ([math.nan] * 5, 0),
        ([math.nan, -2.0, math.nan, -2.0, -math.inf], 6),
    ],
)
@pytest.mark.parametrize("stop_after", [10**9, 8])
def test_the_best_model_is_the_earliest_of_the_best(
    script: list[float], best: int, stop_after: int, accuracies: dict[int, float], tmp_path: Path
) -> None:
    accuracies |= dict(zip(STEPS, script, strict=True))
    sweep = sweep_of(tmp_path, "ERM")
    training = training_of(sweep, sweep.plan.runs[0], keep={"model": (BEST, LAST)})
    if train(training, stop_after):
        training = training_of(sweep, sweep.plan.runs[0], keep={"model": (BEST, LAST)})
        train(training)
    expected = {BEST: (best, script[STEPS.index(best)]), LAST: (19, script[-1])}
    for which, (step, accuracy) in expected.items():
        saved = find_model(training.folder.path, "model", which)
        assert (saved.step, saved.accuracy) == (step, pytest.approx(accuracy, rel=0, nan_ok=True))
        predict = predict_with(training.algorithm, saved.load(CPU))
        scores = scores_of(predict, training.data, training.run.views)
        (record,) = (record for record in records_of(training.folder) if record["step"] == step)
        assert scores == record["views"], "the weights are those that were measured at that step"


def test_weights_are_kept_where_somebody_reads_them(tmp_path: Path) -> None:
    rows = [row.format("ERM") for row in WATCHED]
    read = {"SMA": (BEST,), "SWAD": (LAST,), "model": (BEST, LAST)}
    for name, keep, site, kept in (
        ("none", {}, Site(device="cpu"), {}),
        ("some", read, Site(device="cpu"), read),
        ("all", {}, Site(device="cpu", save_models="all"), BOTH),
        ("best", read, Site(device="cpu", save_models="best"), {name: {BEST, *read.get(name, ())} for name in BOTH}),
    ):
        sweep = sweep_of(tmp_path / name, *rows, site=site, hparams=AVERAGES)
        training = training_of(sweep, sweep.plan.runs[0], keep)
        train(training)
        found = {path.name for path in (training.folder.path / "models").glob("*")}
        assert found == {f"{predictor}.{which}.safetensors" for predictor in kept for which in kept[predictor]}


def test_predictions_that_are_kept_give_the_recorded_scores(tmp_path: Path) -> None:
    site = Site(device="cpu", save_predictions="chosen")
    training = only(sweep_of(tmp_path, *(row.format("ERM") for row in WATCHED), site=site, hparams=AVERAGES))
    train(training)
    for predictor in KEEP:
        content = load_file(training.folder.path / "predictions" / f"{predictor}.last.safetensors")
        recorded = records_of(training.folder, predictor)[-1]["views"]
        assert {name.rpartition("/")[0] for name in content} == set(recorded)
        for view, scores in recorded.items():
            logits, labels, positions = (content[f"{view}/{what}"] for what in ("logits", "labels", "positions"))
            assert evaluate([(np.arange(len(labels)), logits)], labels.numpy())[0] == scores
            examples = training.data.examples[View.parse(view).domain]
            assert np.array_equal(examples.labels[positions.numpy()], labels.numpy())
            assert len(set(positions.tolist())) == len(positions)


# -- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ERM", "SAM", "Fish"])
def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(algorithm: str, tmp_path: Path) -> None:
    rows = [row.format(algorithm) for row in WATCHED]
    hparams = {"resnet_dropout": 0.5, **AVERAGES}
    whole, cut = (sweep_of(tmp_path / name, *rows, hparams=hparams) for name in ("whole", "cut"))
    undisturbed = training_of(whole, whole.plan.runs[0], BOTH)
    assert not train(undisturbed)
    for stop_after in (1, 3, 7, 13, 19, 20):
        stopped = training_of(cut, cut.plan.runs[0], BOTH)
        assert train(stopped, stop_after)
        assert stopped.loop.step == stop_after
        assert stopped.loop.due is (stop_after != 3), "an evaluation that is due does not hold it up"
    last = training_of(cut, cut.plan.runs[0], BOTH)
    assert not train(last)
    assert files(last.folder) == files(undisturbed.folder)


class Restless(Patience):
    """Asks to stop after so many parts of work: minibatches, and batches that are evaluated."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def beat(self, step: int, steps: int) -> None:
        pass

    @property
    def stop_requested(self) -> bool:
        self.parts -= 1
        return self.parts < 0

    @stop_requested.setter
    def stop_requested(self, stop: bool) -> None:
        pass


def test_a_run_that_was_stopped_within_evaluations_goes_on_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row.format("ERM") for row in WATCHED]
    hparams = {"resnet_dropout": 0.5, **AVERAGES}
    whole, cut = (sweep_of(tmp_path / name, *rows, hparams=hparams) for name in ("whole", "cut"))
    undisturbed = training_of(whole, whole.plan.runs[0], BOTH)
    assert not train(undisturbed)
    heard = list[int]()
    monkeypatch.setattr(Algorithm, "validated", lambda self, accuracy: heard.append(self.step))
    within = set()
    for parts in itertools.cycle((9, 13, 30, 8, 17)):
        training = training_of(cut, cut.plan.runs[0], BOTH, Restless(parts))
        try:
            training.execute()
        except Stopped:
            if training.loop.due:
                within.add(len(training.loop.measured))
        else:
            break
    assert within >= {0, 1, 2}, "within the live model's, before and within that of averages"
    assert files(training.folder) == files(undisturbed.folder)
    assert heard == [*STEPS], "the algorithm hears of each evaluation once, at its step"


def test_what_was_recorded_after_the_checkpoint_is_recorded_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM")
    train(only(sweep), stop_after=8)
    training = only(sweep)
    before = records_of(training.folder)
    training.folder.append_records([{"step": 12, "predictor": "model", "views": {}}])
    train(training)
    assert records_of(training.folder)[: len(before)] == before
    assert [record["step"] for record in records_of(training.folder)] == [*STEPS]


def test_records_without_a_checkpoint_are_begun_anew(tmp_path: Path) -> None:
    training = only(sweep_of(tmp_path, "ERM"))
    training.folder.append_records([{"step": 0, "predictor": "model", "views": {}}])
    train(training)
    assert [record["step"] for record in records_of(training.folder)] == [*STEPS]


def test_weights_that_somebody_reads_since_the_checkpoint_are_the_best_of_the_whole_run(
    accuracies: dict[int, float], tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path, "ERM")
    (run,) = sweep.plan.runs
    accuracies |= dict(zip(STEPS, [0.1, 0.9, 0.2, 0.3, 0.4], strict=True))
    train(training_of(sweep, run), stop_after=13)
    training = training_of(sweep, run, keep={"model": (BEST, LAST)})
    train(training)
    assert find_model(training.folder.path, "model", BEST).step == 6
    assert [record["step"] for record in records_of(training.folder)] == [*STEPS]


def test_a_checkpoint_is_made_at_each_evaluation_but_the_last_and_every_so_many_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr("dgbench.execute.training.time", SimpleNamespace(monotonic=lambda: now[0]))
    saved, step, save = [], Training._step, Training._save

    def one_minute(self: Training, number: int, minibatch: Minibatch) -> None:
        now[0] += 60.0
        step(self, number, minibatch)

    def spy(self: Training) -> None:
        saved.append(self.loop.step)
        save(self)

    monkeypatch.setattr(Training, "_step", one_minute)
    monkeypatch.setattr(Training, "_save", spy)
    site = Site(device="cpu", checkpoint_minutes=2.5)
    train(only(sweep_of(tmp_path, "ERM", site=site, setting={"checkpoint_freq": 10})))
    assert saved == [1, 4, 7, 10, 11, 14, 17]
    saved.clear()
    until = only(sweep_of(tmp_path / "search", "ERM", site=site, setting={"checkpoint_freq": 10}))
    until.execute(19)
    assert saved == [1, 4, 7, 10, 11, 14, 17, 20], "where others are waited for, the last is needed"


# -- what it looks at ---------------------------------------------------------------------------------------------


def test_nothing_of_a_held_out_domain_is_read_to_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    training = only(sweep_of(tmp_path, "ERM+SWAD", test_domains=["75"], val_domains=["60"]))
    read: dict[str, set[tuple[str, int]]] = {"train": set(), "evaluate": set()}
    phase = ["train"]

    def spied(domain: str, batch: Any) -> Any:
        def spy(indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
            read[phase[0]].update((domain, index) for index in indices.tolist())
            return batch(indices, rng)  # type: ignore[no-any-return]

        return spy

    for domain, examples in training.data.examples.items():
        monkeypatch.setattr(examples, "batch", spied(domain, examples.batch))
    measure = training._evaluate

    def evaluating(step: int) -> None:
        phase[0] = "evaluate"
        measure(step)
        phase[0] = "train"

    monkeypatch.setattr(training, "_evaluate", evaluating)
    train(training)
    allowed = {(d, i) for d in ("0", "15", "30", "45") for i in training.data.indices[View(d, IN)].tolist()}
    assert read["train"] <= allowed
    assert {domain for domain, _ in read["train"]} == {"0", "15", "30", "45"}
    assert not read["evaluate"] & allowed, "training views are not evaluated unless asked for"
    assert {domain for domain, _ in read["evaluate"]} == {"0", "15", "30", "45", "60", "75"}


def test_all_adds_the_training_views_and_changes_nothing_else(tmp_path: Path) -> None:
    found = {}
    for how in ("selectors", "all"):
        training = only(sweep_of(tmp_path / how, "ERM", setting={"evaluate": how}))
        train(training)
        found[how] = records_of(training.folder)
    sources = {"0", "15", "30", "45", "60"}
    for few, many in zip(found["selectors"], found["all"], strict=True):
        assert set(few["views"]) == {f"{d}/{OUT}" for d in sources} | {f"75/{IN}", f"75/{OUT}"}
        assert set(many["views"]) - set(few["views"]) == {f"{d}/{IN}" for d in sources}
        assert few["train"] == many["train"]
        assert {name: many["views"][name] for name in few["views"]} == few["views"]


def test_validation_on_augmented_images_is_another_number_for_the_training_domains_alone(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "toy", {"a": 20, "b": 20, "c": 20}, ["x", "y"])
    found = {}
    for augmented in (False, True):
        sweep = sweep_of(
            tmp_path / str(augmented),
            "ERM",
            datasets=[f"folder:{root}"],
            test_envs=["c"],
            hparams={"batch_size": 4},
            setting={"image_size": 16, "steps": 3, "validation_augmented": augmented},
        )
        training = only(sweep)
        train(training)
        found[augmented] = records_of(training.folder)
    for clean, other in zip(found[False], found[True], strict=True):
        assert clean["train"] == other["train"], "trained alike"
        changed = {view for view in clean["views"] if clean["views"][view] != other["views"][view]}
        assert changed == {"a/out", "b/out"}


# -- what decides the luck ----------------------------------------------------------------------------------------


def first_steps(sweep: Sweep) -> Iterator[tuple[Training, Minibatch, dict[str, torch.Tensor]]]:
    """Each training run with its first minibatch and its initial weights."""
    for run in sweep.plan.runs:
        training = training_of(sweep, run)
        weights = {name: tensor.clone() for name, tensor in training.algorithm.predictor_tensors().items()}
        with patch.object(training, "_step", wraps=training._step) as step:
            train(training, stop_after=1)
        yield training, step.call_args.args[1], weights


def same_minibatch(one: Minibatch, other: Minibatch) -> bool:
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("order", ["paired", "run"])
def test_algorithms_see_the_same_minibatches_where_runs_are_paired(order: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", "SAM", "VREx", setting={"data_order": order})
    (_, first, _), *others = first_steps(sweep)
    assert [same_minibatch(first, other) for _, other, _ in others] == [order == "paired"] * 2


@pytest.mark.parametrize("init", ["trial", "run"])
def test_runs_of_a_trial_start_from_the_same_weights_where_it_says_so(init: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", "SAM", n_hparams=3, n_trials=2, setting={"init": init, "data_order": "run"})
    starts = [(training.run, weights) for training, _, weights in first_steps(sweep)]
    assert len(starts) == 12
    for i, (run, weights) in enumerate(starts):
        for other, others_weights in starts[:i]:
            alike = init == "trial" and run.trial == other.trial
            assert same_weights(weights, others_weights) is alike, (run.name, other.name)


@pytest.mark.parametrize("generated", ["trial", "run"])
def test_drawn_data_belong_to_the_trial_or_to_the_run(generated: str, tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        "ERM",
        "SAM",
        datasets=["ColoredDigits"],
        test_envs=["-90%"],
        n_trials=2,
        setting={"generated_data": generated, "data_order": "run"},
    )
    labels = {
        (run.method.name, run.trial): training_of(sweep, run).data.examples["+90%"].labels for run in sweep.plan.runs
    }
    assert len(labels) == 4
    assert np.array_equal(labels["ERM", 0], labels["SAM", 0]) is (generated == "trial")
    assert not np.array_equal(labels["ERM", 0], labels["ERM", 1])
