"""Streams in real runs: which adapter is shown which inputs in which batches, and what is recorded of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from dgbench.adaptation.t3a import T3A
from dgbench.core.errors import UserError
from dgbench.core.protocol import Fold, View
from dgbench.core.run import Run
from dgbench.core.stream import Stream
from dgbench.data.views import ViewData
from dgbench.execute.context import open_context
from dgbench.execute.streams import divide, ordered
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.values import asked_of
from tests.support.in_process import execute, execute_all, records_of, runs_of, sweep_of

TWO = {"test_domains": ["60", "75"], "setting": {"steps": 12, "checkpoint_freq": 11}}
"""Two test domains, so that views of one role can follow each other."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return execute_all(sweep_of(tmp_path_factory.mktemp("streams"), "ERM", "ERM+T3A", **TWO))


def streamed(sweep: Sweep, stream: str) -> Run:
    """The adapt run of the sweep with another stream, executed."""
    (run,) = runs_of(sweep, "T3A")
    run = dataclasses.replace(run, setting=dataclasses.replace(run.setting, stream=stream))
    assert execute(sweep, run) == 0, sweep.store.folder(run.id).failures()
    return run


def data_of(sweep: Sweep, run: Run) -> ViewData:
    return open_context(run, sweep.store, sweep.site, sweep.catalogue).data


A, B, C, D = (View(name, part) for part in ("out", "in") for name in "ab")
FOLD = Fold(("a", "b"), (View("t", "in"),), source_val=(View("t", "out"),), test=(C, D), oracle=(A, B))


def test_views_of_one_role_follow_each_other_or_are_mixed() -> None:
    val, train = FOLD.source_val[0], FOLD.train[0]
    views = (*FOLD.evaluated, train)
    assert views == (val, C, D, A, B, train)
    assert divide(views, FOLD, Stream()) == tuple(((view,),) for view in views)
    assert divide(views, FOLD, Stream(domains="continual")) == (((val,),), ((C,), (D,)), ((A,), (B,)), ((train,),))
    assert divide(views, FOLD, Stream(domains="mixed")) == (((val,),), ((C, D),), ((A, B),), ((train,),))


class Toy:
    sizes = {A: 5, B: 7}

    def size(self, view: View) -> int:
        return self.sizes[view]

    def labels(self, view: View) -> Any:
        return np.arange(self.sizes[view]) % 3


def test_an_order_has_each_input_once_and_classes_in_order_if_asked_for() -> None:
    data: Any = Toy()
    for block in ((A,), (A, B)):
        views, positions = ordered(block, data, 1, "shuffled")
        pairs = list(zip(views.tolist(), positions.tolist(), strict=True))
        all_pairs = [(i, position) for i, view in enumerate(block) for position in range(data.size(view))]
        assert sorted(pairs) == all_pairs != pairs
        views, positions = ordered(block, data, 1, "by_class")
        by_class = list(zip(views.tolist(), positions.tolist(), strict=True))
        labels = [position % 3 for _, position in by_class]
        assert labels == sorted(labels)
        for label in range(3):
            assert [pair for pair in by_class if pair[1] % 3 == label] == [
                pair for pair in pairs if pair[1] % 3 == label
            ]


@pytest.mark.parametrize(
    "stream",
    ["batch_size=9 order=shuffled domains=separate", "batch_size=17 order=by_class domains=mixed", "domains=continual"],
)
def test_predictions_reach_the_examples_that_they_are_of(
    stream: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that learns nothing has the scores of the plain model, whatever it is shown in whatever order."""
    monkeypatch.setattr(T3A, "predict", lambda self, x: self.network(x))
    (plain,) = runs_of(sweep, "ERM")
    expected = {record["step"]: record["views"] for record in records_of(sweep.store.folder(plain.id))}
    run = streamed(sweep, stream)
    records = records_of(sweep.store.folder(run.id))
    assert records
    for record in records:
        for view, scores in record["views"].items():
            assert scores["accuracy"] == expected[record["step"]][view]["accuracy"]
            assert scores["loss"] == pytest.approx(expected[record["step"]][view]["loss"], rel=1e-5)
            windows = np.array_split(np.arange(scores["n"]), 10)
            right = sum(share * len(window) for share, window in zip(record["along"][view], windows, strict=True))
            assert right == pytest.approx(scores["accuracy"] * scores["n"])


@pytest.mark.parametrize(("domains", "adapters"), [("separate", 8), ("continual", 3), ("mixed", 3)])
def test_an_adapter_is_shown_a_series(
    domains: str, adapters: int, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each role has a series of its own, and batches end where a block does."""
    shown: list[tuple[T3A, Tensor]] = []
    predict = T3A.predict
    monkeypatch.setattr(T3A, "predict", lambda self, x: shown.append((self, x.clone())) or predict(self, x))
    run = streamed(sweep, f"batch_size=50 order=by_class domains={domains}")
    made = [*dict.fromkeys(adapter for adapter, _ in shown)]
    assert len(made) == adapters * len(records_of(sweep.store.folder(run.id)))
    # The last adapter is shown the oracle's views, of both test domains unless each begins anew.
    series, data = divide(run.views, run.fold, Stream(domains=domains))[-1], data_of(sweep, run)
    label_of = {}
    for view in run.fold.oracle:
        images = made[-1].network.prepare(data.inputs(view, np.arange(data.size(view))))
        label_of |= {image.numpy().tobytes(): int(y) for image, y in zip(images, data.labels(view), strict=True)}
    batches = [x for adapter, x in shown if adapter is made[-1]]
    for block in series:
        sizes, labels = [], list[int]()
        while len(labels) < sum(data.size(view) for view in block):
            x = batches.pop(0)
            sizes.append(len(x))
            labels += [label_of[image.numpy().tobytes()] for image in x]
        assert labels == sorted(labels)
        assert set(sizes[:-1]) == {50}
    assert not batches


def test_only_adapt_runs_hold_the_stream_and_without_one_nothing_changes(sweep: Sweep, tmp_path: Path) -> None:
    asked = {**TWO, "setting": {**TWO["setting"], "stream": "order=by_class batch_size=1"}}
    other = sweep_of(tmp_path, "ERM+DiWA+T3A", "ERM+T3A", n_hparams=2, **asked)
    assert {run.id for run in runs_of(sweep, "ERM")} < {run.id for run in runs_of(other, "ERM")}
    assert not {run.id for run in runs_of(sweep, "T3A")} & {run.id for run in runs_of(other, "T3A")}
    assert {run.setting.stream for run in runs_of(other, "DiWA")} == {""}
    assert {run.setting.stream for run in runs_of(other, "T3A")} == {"batch_size=1 order=by_class domains=separate"}
    (run,) = runs_of(sweep, "T3A")
    assert "stream" not in run.to_json()["setting"]
    assert all("along" not in record for record in records_of(sweep.store.folder(run.id)))
    assert Run.from_json(runs_of(other, "T3A")[0].to_json()) == runs_of(other, "T3A")[0]


def test_a_stream_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stream on RotatedDigits: only adapters are shown a stream"):
        sweep_of(tmp_path, "ERM", setting={"stream": "batch_size=1"})


def test_words_of_the_flag_are_one_setting() -> None:
    assert asked_of({"stream": ["batch_size=1", "order=by_class"]})["setting"] == {
        "stream": "batch_size=1 order=by_class"
    }
