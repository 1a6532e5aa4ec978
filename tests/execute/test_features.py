"""Features of a frozen network are computed once in a sweep, and runs on them find what runs on inputs find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.core.run import BEST, MODEL
from dgbench.core.setting import setting as make_setting
from dgbench.datasets.rotated import RotatedDigits
from dgbench.execute import features
from dgbench.execute.context import open_context
from dgbench.execute.features import FeatureStore
from dgbench.execute.models import find_model, predict_with
from dgbench.launchers.reconcile import Sweep
from dgbench.store.lease import Stopped
from tests.support.in_process import Patience, execute, execute_all, records_of, sweep_of, train, training_of

FROZEN = {"freeze": "featurizer", "augmentation": False}
ROWS = ("ERM", "ERM+SWAD", "ERM+T3A", "ERM+AdaNPC", "ERM+DiWA", "ERM+WiSEFT", "ERM+Ensemble", "ERM+Alignment")


def frozen(root: Path, *rows: str, stored: bool = True, setting: dict[str, Any] | None = None, **asked: Any) -> Sweep:
    return sweep_of(root, *rows, setting={**FROZEN, "stored_features": stored, **(setting or {})}, **asked)


def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Domains in the order in which their features are computed from now on."""
    found: list[str] = []
    compute = FeatureStore._computed

    def noted(self: FeatureStore, network: Any, domain: str) -> NDArray[np.float32]:
        found.append(domain)
        return compute(self, network, domain)

    monkeypatch.setattr(FeatureStore, "_computed", noted)
    return found


@pytest.mark.parametrize("start", [{"classifier_init": "linear_probe", "init": "sweep", "generated_data": "sweep"}, {}])
def test_every_kind_of_run_finds_what_it_finds_on_inputs(
    start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = computed(monkeypatch)
    trials = 2 if start else 1
    both = [
        execute_all(frozen(tmp_path / str(stored), *ROWS, stored=stored, setting=start, n_hparams=2, n_trials=trials))
        for stored in (False, True)
    ]
    assert sorted(counted) == ["0", "15", "30", "45", "60", "75"], "all trials start from the same weights"
    runs = [sweep.plan.runs for sweep in both]
    assert [run.name for run in runs[0]] == [run.name for run in runs[1]]
    for mine, theirs in zip(*runs, strict=True):
        pair = [records_of(sweep.store.folder(run.id)) for sweep, run in zip(both, (mine, theirs), strict=True)]
        for a, b in zip(*pair, strict=True):
            assert (a["step"], a["predictor"], a["views"].keys()) == (b["step"], b["predictor"], b["views"].keys())
            for view, scores in a["views"].items():
                assert b["views"][view] == pytest.approx(scores, rel=1e-4, abs=1e-5), (mine.name, view)


def test_trials_that_start_from_other_weights_have_features_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = computed(monkeypatch)
    execute_all(frozen(tmp_path, "ERM", n_trials=2, setting={"steps": 2}))
    assert sorted(counted) == sorted(2 * ["0", "15", "30", "45", "60", "75"])


def test_data_that_changed_have_other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = frozen(tmp_path, "ERM", n_hparams=2, setting={"steps": 2})
    counted = computed(monkeypatch)
    assert execute(sweep, sweep.plan.runs[0]) == 0
    counted.clear()
    monkeypatch.setattr(RotatedDigits, "fingerprint", lambda self: "another")
    assert execute(sweep, sweep.plan.runs[1]) == 0
    assert len(counted) == 6


@pytest.mark.parametrize("name", ["MTL", "URM", "SagNet", "SAF", "DANN", "Fish", "CORAL+SAM", "Hutchinson", "TRAM"])
def test_methods_with_networks_of_their_own_take_the_same_steps(name: str, tmp_path: Path) -> None:
    found = []
    for stored in (False, True):
        sweep = frozen(tmp_path / str(stored), name, stored=stored, setting={"steps": 3, "checkpoint_freq": 9})
        training = training_of(sweep, sweep.plan.runs[-1])
        train(training)
        found.append(training.algorithm.state_dict())
    assert found[0].keys() == found[1].keys()
    for key, tensor in found[0].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=1e-4, atol=1e-6, msg=key)


def test_a_stopped_run_goes_on_and_its_checkpoint_leaves_out_what_is_frozen(tmp_path: Path) -> None:
    ended = []
    for stop in (10**9, 9):
        sweep = frozen(tmp_path / str(stop), "ERM")
        training = training_of(sweep, sweep.plan.runs[0])
        if train(training, stop):
            held = torch.load(training.checkpoint, weights_only=True)["algorithm"]["module"]
            assert list(held) == ["network.classifier.weight", "network.classifier.bias"]
            training = training_of(sweep, sweep.plan.runs[0])
            train(training)
        ended.append((records_of(training.folder), training.algorithm.state_dict()))
    assert ended[0][0] == ended[1][0]
    assert all(torch.equal(ended[0][1][name], tensor) for name, tensor in ended[1][1].items())


def test_a_stop_is_heard_while_features_are_computed_and_while_another_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = frozen(tmp_path, "ERM")
    stopping = Patience(0)
    stopping.stop_requested = True
    with pytest.raises(Stopped):
        training_of(sweep, sweep.plan.runs[0], lease=stopping)
    assert not list(tmp_path.glob("features/*/*.npy"))
    monkeypatch.setattr(features, "claim", lambda *_: None)
    with pytest.raises(Stopped):
        training_of(sweep, sweep.plan.runs[0], lease=stopping)


def test_a_model_of_such_a_run_predicts_inputs(tmp_path: Path) -> None:
    sweep = frozen(tmp_path, "ERM", "ERM+DiWA", n_hparams=2)  # which keeps the models of ERM
    run = sweep.plan.runs[0]
    assert execute(sweep, run) == 0
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue)
    algorithm = context.algorithm()
    saved = find_model(sweep.store.folder(run.id).path, MODEL, BEST)
    predict = predict_with(algorithm, saved.load(context.device))
    scores = context.measure(MODEL, lambda view: context.predict_batches(predict, view), step=0, last=False, named={})
    (record,) = (r for r in records_of(sweep.store.folder(run.id)) if r["step"] == saved.step)
    for view, found in scores.items():
        assert found == pytest.approx(record["views"][view], rel=1e-4), view


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Mixup", "Mixup needs inputs that are images or vectors, which it would not have with stored_features true"),
        ("ARM", "ARM needs inputs that are images, which it would not have with stored_features true"),
        ("MIRO", "MIRO needs a backbone whose features between stages are known, which"),
        ("ADRMX", "ADRMX can't be trained with stored_features true: it has a second network that reads inputs"),
        ("KD", "KD can't be trained with stored_features true: it shows inputs to a teacher"),
        ("ERM+BNAdapt", "BNAdapt needs a network with batch norm, which it would not have with stored_features true"),
        ("ERM+MEMO", "MEMO needs inputs that are images, which it would not have with stored_features true"),
    ],
)
def test_methods_that_need_more_than_features_are_refused(row: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        frozen(tmp_path, row)
    assert reason in str(refused.value)


def test_features_that_change_are_not_stored() -> None:
    with pytest.raises(UserError) as refused:
        make_setting(stored_features=True)
    assert refused.value.problems == (
        "stored_features needs freeze 'featurizer', and it is 'none': features change as layers train",
        "stored_features needs augmentation false: an image augmented anew has other features each time",
    )
