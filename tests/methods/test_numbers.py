"""`update` may return plain numbers: trained, checked and logged as tensors are, and warned of once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.questions import reads_nothing
from dgbench.conformance.rehearsal import Subject
from dgbench.core.site import Site
from dgbench.methods import algorithm
from tests.support.in_process import execute_all, records_of, sweep_of

SOURCE = """
import numpy as np
from dgbench import Algorithm, AlgorithmCard

class Item(Algorithm):
    "Logs numbers."
    card = AlgorithmCard(paper="None")
    def loss(self, batches):
        return self.joint_loss(batches)
    def update(self, batches):
        loss = self.loss(batches)
        self.descend(loss)
        return {"loss": loss.item(), "twice": np.float64(2 * loss.item()), "n": len(batches)}

class Tensors(Item):
    "Logs tensors, one of them with its graph."
    def update(self, batches):
        loss = self.loss(batches)
        self.descend(loss)
        return {"loss": loss.detach(), "twice": 2 * loss, "n": loss.detach() * 0 + len(batches)}

class Peeks(Item):
    "Reads a value that it doesn't log."
    def update(self, batches):
        if all(p.sum().item() < 1e9 for p in self.parameters()):
            return super().update(batches)
        return {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(autouse=True)
def _not_warned() -> None:
    algorithm._warn_of_numbers.cache_clear()


def test_numbers_are_recorded_as_tensors_are_and_warned_of_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = sweep_of(file.parent / "sweep", "Item", "Tensors", site=Site(device="cpu", include=(str(file),)))
    with caplog.at_level(logging.WARNING):
        execute_all(sweep)
    one, other = (records_of(sweep.store.folder(run.id)) for run in sweep.plan.runs)
    assert [record["views"] for record in one] == [record["views"] for record in other]
    for mine, theirs in zip(one, other, strict=True):
        assert mine["train"] == pytest.approx(theirs["train"], rel=1e-6)
    assert one[-1]["train"]["n"] == 5
    assert [record.getMessage() for record in caplog.records] == [
        "update() of Item returns plain numbers (loss, n, twice): each step waits for the device. Detached tensors "
        "would not"
    ]


@pytest.mark.parametrize(("name", "wrong"), [("Item", False), ("Tensors", False), ("Peeks", True)])
def test_the_check_accepts_numbers_but_no_other_reads(file: Path, name: str, wrong: bool) -> None:
    subject = Subject(Catalogue([file]).get("algorithm", name), torch.device("cpu"))
    assert bool(reads_nothing(subject, 2, 0)) == wrong
    logged = subject.rehearse(2, 0).until(2)
    assert all(value.isfinite() and not value.requires_grad for value in logged.values())
