"""Whatever draws random numbers where models are measured draws the same ones, whoever else is measured beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.core.cards import AdapterCard
from dgbench.core.protocol import View
from dgbench.core.site import Site
from dgbench.execute.streams import StreamedViews
from dgbench.methods.adapter import Adapter
from tests.support.in_process import execute_all, records_of, runs_of, sweep_of, training_of

NOISY = '''
import torch

from dgbench import Algorithm
from dgbench.core.cards import AlgorithmCard


class Noisy(Algorithm):
    """Predicts with noise."""

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        return self.joint_loss(batches)

    def forward(self, x):
        logits = self.network(x)
        return logits if self.training else logits + torch.randn_like(logits)
'''


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "noisy.py"
    file.write_text(NOISY)
    return Site(device="cpu", include=(str(file),))


def views(root: Path, site: Site, rows: tuple[str, ...]) -> list[Any]:
    """What a run of Noisy records of SMA, at each evaluated step."""
    setting = {"steps": 5, "checkpoint_freq": 3, "backbone": "Linear"}
    sweep = execute_all(sweep_of(root, *rows, site=site, setting=setting, hparams={"SMA": {"start": 2}}))
    (run,) = runs_of(sweep, "Noisy")
    return [record["views"] for record in records_of(sweep.store.folder(run.id), "SMA")]


def test_a_models_scores_do_not_depend_on_what_is_measured_before_it(tmp_path: Path, site: Site) -> None:
    alone = views(tmp_path / "alone", site, ("Noisy+SMA",))
    beside = views(tmp_path / "beside", site, ("Noisy+EMA", "Noisy+SMA"))
    assert alone == beside
    assert len(alone) > 1


class Dice(Adapter):
    """Adds noise to what is predicted, another in each batch."""

    card = AdapterCard(paper="none")

    def predict(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + torch.randn_like(logits)


def test_an_adapter_draws_on_a_view_what_it_draws_there_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", setting={"backbone": "Linear"})
    training = training_of(sweep, sweep.plan.runs[0])
    one, two = training.run.views[:2]

    def shown(*views: View) -> list[Tensor]:
        """The logits of the last view, after those of the others."""
        streamed = StreamedViews(training.context, partial(Dice, training.algorithm.network.eval(), None))
        *_, last = ([logits for _, logits in streamed.batches_of(view)] for view in views)
        return last

    alone = shown(two)
    after = shown(one, two)
    assert len(alone) > 1
    assert all(torch.equal(a, b) for a, b in zip(alone, after, strict=True))
