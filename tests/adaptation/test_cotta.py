from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.adaptation._augment import augmented
from dgbench.adaptation.cotta import CoTTA, _jitter
from dgbench.core.errors import UserError
from dgbench.networks.network import Network
from tests.adaptation.toys import changed, in_batches, network, parameters, stream

pytestmark = pytest.mark.usefixtures("float64")


def cotta(model: Network | None = None, **hparams: Any) -> CoTTA:
    return CoTTA(model or network(), CoTTA.Hparams(**{"lr": 0.01, "momentum": 0.9, "copies": 3, **hparams}))


def loop(model: Network, xs: list[Tensor], threshold: float, restore: float) -> tuple[list[Tensor], list[bool]]:
    """The published procedure; also whether the trained network was sure of each batch."""
    student, teacher, anchor = (in_batches(copy.deepcopy(model)) for _ in range(3))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    said, sure = [], []
    for x in xs:
        with torch.no_grad():
            sure.append(bool(anchor(x).softmax(1).max(1).values.mean() >= threshold))
            if sure[-1]:
                q = teacher(x).softmax(1)
            else:
                q = sum(teacher(augmented(model, x, _jitter(6))).softmax(1) for _ in range(3)) / 3
        said.append(q)
        losses = [-(q[i] * student_logits.log_softmax(0)).sum() for i, student_logits in enumerate(student(x))]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast, first in zip(*(m.parameters() for m in (teacher, student, anchor)), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)
                mask = (torch.rand_like(fast) < restore).double()
                fast.copy_(mask * first + (1 - mask) * fast)
    return said, sure


@pytest.mark.parametrize("threshold", [0.46, 1.1])
def test_equals_a_plain_loop(threshold: float) -> None:
    model, xs = network(dropout=0.5), stream((8, 8, 8, 8))
    torch.manual_seed(3)
    # From the least sure batch on, for a teacher that agrees with the network teaches it nothing.
    xs = xs[::-1]
    expected, sure = loop(model, xs, threshold, 0.2)
    assert any(sure) == (threshold < 1)
    assert not all(sure)
    torch.manual_seed(3)
    adapter = cotta(copy.deepcopy(model), threshold=threshold, restore=0.2)
    for x, wanted in zip(xs, expected, strict=True):
        torch.testing.assert_close(adapter.predict(x).exp(), wanted, rtol=0, atol=1e-9)


def test_all_weights_learn_and_all_are_restored_with_probability_one() -> None:
    model = network("group")
    before = parameters(model)
    cotta(model, restore=0.0, threshold=1.1).predict(stream()[0])
    assert changed(model, before) == set(before)
    model = network("group")
    cotta(model, restore=1.0, threshold=1.1).predict(stream()[0])
    assert changed(model, before) == set()


def test_inputs_are_augmented_as_images_and_come_back_as_inputs() -> None:
    model = network()
    model.normalizes = True
    model.mean, model.std = torch.tensor([0.4, 0.5]).view(-1, 1, 1), torch.tensor([0.2, 0.3]).view(-1, 1, 1)
    pixels = torch.rand(3, 2, 6, 6)
    seen: list[Tensor] = []
    found = augmented(model, (pixels - model.mean) / model.std, lambda x: seen.append(x) or 1 - x)  # type: ignore[func-returns-value]
    assert seen[0].shape == (3, 3, 6, 6), "gray or of three colors"
    torch.testing.assert_close(seen[0][:, :2], pixels)
    torch.testing.assert_close(found, (1 - pixels - model.mean) / model.std)
    model.normalizes = False
    x = torch.randn(3, 1, 6, 6) * 5
    torch.testing.assert_close(augmented(model, x, lambda x: x), x)
    with pytest.raises(UserError, match="one to three channels, and these have 4"):
        augmented(model, torch.rand(1, 4, 6, 6), lambda x: x)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_augmentation_keeps_shape_and_range_and_follows_the_seed(channels: int) -> None:
    x = torch.rand(4, channels, 8, 8)
    jitter = _jitter(8)
    torch.manual_seed(0)
    one = jitter(x)
    torch.manual_seed(0)
    assert torch.equal(jitter(x), one)
    assert not torch.equal(jitter(x), one)
    assert one.shape == x.shape
    assert -0.05 < one.min() < one.max() < 1.05
