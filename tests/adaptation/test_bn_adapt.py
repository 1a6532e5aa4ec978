from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dgbench.adaptation.bn_adapt import BNAdapt
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.methods.average import NoHparams
from dgbench.networks.network import Network
from tests.adaptation.toys import CLASSES, in_batches, network, stream, vectors

pytestmark = pytest.mark.usefixtures("float64")


def test_one_layer_in_closed_form() -> None:
    norm = nn.BatchNorm1d(3)
    model = Network(norm, 3, CLASSES, setting())
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
        norm.running_mean = torch.full((3,), 7.0)
    x = torch.randn(6, 3)
    h = (x - x.mean(0)) / ((x - x.mean(0)).square().mean(0) + 1e-5).sqrt()
    expected = model.classifier(h * norm.weight + norm.bias)
    got = BNAdapt(model, NoHparams()).predict(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert not got.requires_grad


@pytest.mark.parametrize("frozen", [False, True])
def test_all_batch_norm_normalises_by_the_batch_and_nothing_else_is_in_training_mode(frozen: bool) -> None:
    model = network(dropout=0.5, frozen=frozen)
    reference = in_batches(copy.deepcopy(model))
    plain = copy.deepcopy(model).eval()
    adapter = BNAdapt(model, NoHparams())
    for x in stream():
        logits = adapter.predict(x)
        torch.testing.assert_close(logits, reference(x), rtol=0, atol=1e-12)
        assert (logits - plain(x)).abs().max() > 1e-2


def test_a_batch_leaves_nothing_to_the_next() -> None:
    adapter, fresh = BNAdapt(network(), NoHparams()), BNAdapt(network(), NoHparams())
    first, second = stream((8, 5))
    adapter.predict(first)
    assert torch.equal(adapter.predict(second), fresh.predict(second))


def test_a_lone_last_input_is_normalised_with_the_batch_before() -> None:
    before, lone = stream((6, 1), shape=(5,))
    adapter = BNAdapt(vectors(), NoHparams())
    adapter.predict(before)
    together = in_batches(vectors())(torch.cat([before, lone]))
    assert torch.equal(adapter.predict(lone), together[-1:])


def test_refuses_a_network_without_batch_norm() -> None:
    with pytest.raises(UserError, match="this network has none: train another backbone, such as resnet18"):
        BNAdapt(network("group"), NoHparams())
