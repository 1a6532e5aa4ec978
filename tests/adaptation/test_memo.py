from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from dgbench.adaptation._augment import augmented
from dgbench.adaptation.memo import MEMO, _transform
from dgbench.networks.network import Network
from tests.adaptation.toys import changed, network, norms, parameters, stream, vectors

pytestmark = pytest.mark.usefixtures("float64")


def memo(model: Network | None = None, **hparams: Any) -> MEMO:
    return MEMO(model or network(), MEMO.Hparams(**{"lr": 0.1, "copies": 4, **hparams}))


def with_input_statistics(model: Network, x: Tensor, prior: float) -> Tensor:
    """The logits of inputs whose statistics every batch norm mixes with its own, layer by layer."""
    for layer in model.featurizer:
        if layer in norms(model):
            flat = x.transpose(0, 1).flatten(1)
            mean = prior / (prior + 1) * layer.running_mean + flat.mean(1).detach() / (prior + 1)
            var = prior / (prior + 1) * layer.running_var + flat.var(1).detach() / (prior + 1)
            scale = (layer.weight / (var + layer.eps).sqrt()).view(-1, 1, 1)
            x = (x - mean.view(-1, 1, 1)) * scale + layer.bias.view(-1, 1, 1)
        else:
            x = layer(x)
    return model.classifier(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("steps", "prior"), [(1, 16.0), (2, 1.0), (1, 0.0)])
def test_equals_a_plain_loop(steps: int, prior: float) -> None:
    model, (x,) = network(), stream((3,))
    torch.manual_seed(5)
    expected = []
    for one in x:
        copied = copy.deepcopy(model).eval()
        optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
        for _ in range(steps):
            copies = torch.cat([augmented(model, one[None], _transform(6)) for _ in range(4)])
            mean = with_input_statistics(copied, copies, prior).softmax(1).mean(0)
            optimizer.zero_grad()
            Categorical(probs=mean).entropy().backward()
            optimizer.step()
        expected.append(with_input_statistics(copied, one[None], prior)[0].detach())
    torch.manual_seed(5)
    adapter = memo(copy.deepcopy(model), steps=steps, prior=prior)
    before = parameters(adapter.network)
    found = adapter.predict(x)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)
    assert not found.requires_grad
    assert not changed(adapter.network, before), "it forgets"
    plain = model.eval()(x)
    assert (found - plain).abs().max() > 1e-3


def test_without_a_learning_rate_and_input_statistics_it_is_the_plain_network() -> None:
    (x,) = stream((3,))
    torch.testing.assert_close(memo(lr=0.0, prior=1e12).predict(x), network().eval()(x), rtol=0, atol=1e-6)


def test_a_batch_norm_of_single_values_mixes_in_no_variance() -> None:
    model, x = vectors(), torch.randn(1, 5)
    adapter = memo(model)
    norm = norms(model)[0]
    var = norm.running_var.clone()
    with torch.no_grad():
        adapter.network(x)
    torch.testing.assert_close(norm.running_var, 16 / 17 * var)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_augmentation_keeps_the_shape_and_follows_the_seed(channels: int) -> None:
    x, transform = torch.rand(1, channels, 8, 8), _transform(8)
    torch.manual_seed(0)
    found = [transform(x) for _ in range(8)]
    torch.manual_seed(0)
    assert all(torch.equal(transform(x), one) for one in found)
    assert len({one.numpy().tobytes() for one in found}) > 5
    assert {one.shape for one in found} == {x.shape}
