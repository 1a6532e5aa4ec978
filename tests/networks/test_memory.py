"""Features are remembered of named inputs, under the weights that they were computed with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from dgbench.core.setting import setting
from dgbench.networks.memory import FeatureMemory
from dgbench.networks.network import Network, build_network


class Counted:
    """A network with a memory, and the passes that it computed."""

    def __init__(self, most: int = 10**6) -> None:
        torch.manual_seed(0)
        self.network = build_network((5,), 3, setting(backbone="MLP", pretrained=False)).eval()
        self.network.memory = self.memory = FeatureMemory(most)
        self.computed: list[int] = []
        self.x = torch.rand(4, 5)

    @torch.no_grad()
    def features(self, *key: int, network: Network | None = None, x: Tensor | None = None) -> Tensor:
        """Features of inputs named by `key`; without one they have no name."""
        network, x = network or self.network, self.x if x is None else x
        if key:
            with self.memory.preparing(*key):
                x = network.prepare(x)
        else:
            x = network.prepare(x)
        found = network.features(x)
        assert torch.equal(found, network._features(x))
        return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found, compute = Counted(), FeatureMemory.features

    def noted(self: FeatureMemory, featurizer, x, features):  # type: ignore[no-untyped-def]
        return compute(self, featurizer, x, lambda x: found.computed.append(len(x)) or features(x))

    monkeypatch.setattr(FeatureMemory, "features", noted)
    return found


def test_named_inputs_pass_once_and_others_each_time(counted: Counted) -> None:
    for key in ((1,), (1,), (2,), (1,), (), ()):
        counted.features(*key)
    assert len(counted.computed) == 1 + 1 + 2


def test_equal_weights_share_features_and_other_weights_forget_them(counted: Counted) -> None:
    counted.features(1)
    twin = copy.deepcopy(counted.network)
    assert twin.memory is counted.memory
    counted.features(1, network=twin)
    assert len(counted.computed) == 1
    with torch.no_grad():
        next(twin.featurizer.parameters()).mul_(2)
    counted.features(1, network=twin)
    counted.features(1)
    counted.features(1)
    assert len(counted.computed) == 3


def test_weights_put_in_place_for_a_call_are_those_that_count(counted: Counted) -> None:
    network, x = counted.network, counted.x
    for factor, computed in ((1, 1), (1, 1), (3, 2), (1, 3)):
        weights = {name: factor * tensor for name, tensor in network.state_dict().items()}
        with torch.no_grad(), counted.memory.preparing(1):
            found = functional_call(network, weights, (network.prepare(x),), tie_weights=False)
        alone = copy.deepcopy(network)
        alone.load_state_dict(weights)
        alone.memory = None
        with torch.no_grad():
            assert torch.equal(found, alone(x))
        assert len(counted.computed) == computed


def test_weights_that_changed_in_place_since_forget(counted: Counted) -> None:
    counted.features(1)
    with torch.no_grad():
        next(counted.network.featurizer.parameters()).add_(1)
    counted.features(1)
    assert len(counted.computed) == 2


def test_features_that_a_method_changed_and_those_beyond_the_bound_are_computed_anew(counted: Counted) -> None:
    counted.features(1).zero_()
    counted.features(1)
    assert len(counted.computed) == 2
    counted.memory.most = 2 * 4 * 256
    for key in (2, 3, 2, 3, 1):
        counted.features(key)
    assert len(counted.computed) == 2 + 1 + 2, "the third has no place"


def test_gradients_training_and_other_tensors_are_not_remembered(counted: Counted) -> None:
    network = counted.network
    with counted.memory.preparing(1):
        x = network.prepare(counted.x)
    with torch.no_grad():
        network.features(x)
        network.features(x.clone())
    assert len(counted.computed) == 2
    assert network.features(x).requires_grad
    network.train()
    with torch.no_grad():
        network.features(x)
    network.eval()
    handle = network.featurizer.register_forward_hook(lambda _, __, features: features + 1)
    with torch.no_grad():
        assert torch.equal(network.features(x), network._features(x))
    handle.remove()
    assert len(counted.computed) == 2
