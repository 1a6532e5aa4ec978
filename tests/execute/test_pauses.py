"""Where the loop stops between two steps to tell the algorithm something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dgbench.algorithms.udim import UDIM
from tests.support.in_process import records_of, sweep_of, train, training_of

WARM_UP, STEPS = 6, 13
HOW = {
    "setting": {"steps": STEPS, "checkpoint_freq": 100},
    "hparams": {"lr": 1e-2, "warm_up_ratio": 2},
}


@pytest.mark.parametrize("stops", [(), (WARM_UP,)])
def test_the_end_of_a_warm_up_is_a_candidate_though_no_evaluation_falls_into_it(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 2 begins from the weights after the last step of stage 1, better than those of step 0; also if resumed."""
    heard: dict[int, float] = {}
    began_from: list[dict[str, Tensor]] = []
    validated, update = UDIM.validated, UDIM.update

    def hear(self: UDIM, accuracy: float) -> None:
        heard[self.step] = accuracy
        validated(self, accuracy)

    def watch(self: UDIM, batches: object) -> object:
        if self.step == self.warm_up:
            began_from.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
            began_from.append(dict(self.best["network"]))
        return update(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(UDIM, "validated", hear)
    monkeypatch.setattr(UDIM, "update", watch)
    sweep = sweep_of(tmp_path, "UDIM", **HOW)  # type: ignore[arg-type]
    (run,) = sweep.plan.runs
    for stop in stops:
        assert train(training_of(sweep, run), stop)
    training = training_of(sweep, run)
    train(training)
    assert set(heard) == {0, WARM_UP - 1, STEPS - 1}
    assert heard[WARM_UP - 1] > heard[0]
    reached, best = began_from
    assert all(torch.equal(tensor, best[name]) for name, tensor in reached.items())
    assert [record["step"] for record in records_of(training.folder)] == [0, STEPS - 1], "it is recorded nowhere"
