"""Algorithms on the backbone whose featurizer has no parameters."""

from __future__ import annotations

import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject, double_precision

NAMES = (
    "ARM",
    "CORAL",
    "DANN",
    "EQRM",
    "ERM",
    "Fish",
    "Fishr",
    "HGP",
    "IRM",
    "MIRO",
    "Mixup",
    "MTL",
    "RSC",
    "SAM",
    "URM",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze", ["none", "featurizer"])
def test_the_classifier_learns(name: str, freeze: str, catalogue: Catalogue) -> None:
    torch.set_num_threads(1)
    subject = Subject(catalogue.get("algorithm", name), torch.device("cpu"))
    with double_precision():
        rehearsal = subject.rehearse(steps=4, checkpoint_freq=2, backbone="Linear", freeze=freeze)
        before = rehearsal.parameters()
        rehearsal.until(4)
        after = rehearsal.parameters()
    moved = {key for key, tensor in after.items() if not torch.equal(before[key], tensor)}
    assert any("classifier" in key for key in moved)
    assert all(tensor.isfinite().all() for tensor in after.values())
