"""Models whose predictions depend on what is predicted together: which inputs those are, no order of files decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import Run
from dgbench.core.seeding import numpy_stream
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import concatenate_logits, predict_batches
from dgbench.launchers.reconcile import Sweep
from tests.support.in_process import CPU, execute, records_of, runs_of, sweep_of

GROUP = 16


class Shown:
    """What networks were shown: (view, positions in it) in order, and how many inputs came at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[str, list[int]]] = []
        inputs = ViewData.inputs

        def asked(data: ViewData, view: View, at: NDArray[np.int64]) -> Tensor:
            self.found.append((str(view), at.tolist()))
            return inputs(data, view, at)

        monkeypatch.setattr(ViewData, "inputs", asked)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    small = {"ARM": {"context_width": 2}}
    rows = ("ERM", "ARM", "ARM+SMA", "ARM+DiWA", "ARM+Ensemble", "ARM+T3A")
    return sweep_of(tmp_path, *rows, n_hparams=2, setting={"steps": 2, "checkpoint_freq": 1}, hparams=small)


def the(sweep: Sweep, method: str) -> Run:
    return runs_of(sweep, method)[0]


@pytest.mark.parametrize("method", ["ARM", "DiWA", "Ensemble"])
def test_views_are_shown_in_a_seeded_order_and_in_full_groups(
    method: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = the(sweep, method)
    for below in sweep.plan.runs:
        if below.id in {source.run for source in run.inputs}:
            assert execute(sweep, below) == 0
    shown = Shown(monkeypatch)
    assert execute(sweep, run) == 0
    sizes = {name: scores["n"] for name, scores in records_of(sweep.store.folder(run.id))[0]["views"].items()}
    assert any(n % GROUP for n in sizes.values()), "or nothing would be filled up"
    for view, n in sizes.items():
        order = numpy_stream(run.seed, "together", view).permutation(n).tolist()
        groups = [at for name, at in shown.found if name == view]
        once = groups[: -(-n // GROUP)]
        assert {len(group) for group in groups} == {GROUP}
        assert [at for group in once for at in group] == [*order, *order[: -n % GROUP]]
        assert groups == once * (len(groups) // len(once)), "alike at each evaluation and for each member"


def test_others_are_shown_views_as_they_come(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    assert execute(sweep, the(sweep, "ERM")) == 0
    assert {tuple(at) for _, at in shown.found} == {tuple(range(len(at))) for _, at in shown.found}


def test_an_adapter_has_an_order_of_its_own(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    run = the(sweep, "T3A")
    trained = next(below for below in sweep.plan.runs if below.id == run.inputs[0].run)
    assert execute(sweep, trained) == 0
    shown = Shown(monkeypatch)
    assert execute(sweep, run) == 0
    order = [at for name, at in shown.found if name == "75/in"]
    assert {len(at) for at in order[:-1]} == {32}
    assert sorted(at for batch in order for at in batch) == list(range(sum(map(len, order)))), "each once"


def test_what_fills_the_last_group_is_not_scored() -> None:
    view = View("a", "out")

    class Seven:
        shape, outputs = (1,), 1

        def size(self, view: View) -> int:
            return 7

        def inputs(self, view: View, at: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(at[:, None].astype(np.float64))

    def predict(x: Tensor) -> Tensor:
        return x * 100 + len(x)

    data: Any = cast(ViewData, Seven())
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    batches = list(predict_batches(predict, data, view, CPU, batch_size=4, order=order, fill=True))
    assert [at.tolist() for at, _ in batches] == [[6, 5, 4, 3], [2, 1, 0]]
    assert concatenate_logits(batches, 7)[:, 0].tolist() == [100 * i + 4 for i in range(7)], (
        "all of them in a group of four"
    )
    (alone,) = predict_batches(predict, data, view, CPU, batch_size=16, order=order, fill=True)
    assert alone[1][0].item() == 607, "there are no more"
