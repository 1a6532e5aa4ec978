"""What a process makes for those that it forks: they build the networks that they would have built, and sooner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dgbench.core.setting import Setting, setting
from dgbench.networks import inherited, network
from dgbench.networks.inherited import keep_for_children, make_inherited
from dgbench.networks.network import build_network, keep_featurizer
from dgbench.networks.weights import digest

SHAPE, SEED = (3, 32, 32), 7
HOW = setting(backbone="SmallCNN")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Leave nothing to other tests, whose networks begin from the same seeds."""
    yield
    inherited._kept.clear()


def built(seed: int = SEED) -> tuple[str, float]:
    """The digest of a network's weights, and the number that is drawn after it."""
    torch.manual_seed(seed)
    return digest(build_network(SHAPE, 5, HOW).state_dict()), float(torch.rand(()))


def test_a_network_on_an_inherited_featurizer_is_the_one_that_would_have_been_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, other = built(), built(SEED + 1)
    keep_featurizer(HOW, SHAPE, SEED)
    with monkeypatch.context() as patch:
        patch.setattr(network, "make_featurizer", None)
        assert built() == expected
    # It is taken once, since whoever takes it trains it.
    assert built() == expected
    keep_featurizer(HOW, SHAPE, SEED)
    assert built(SEED + 1) == other


@pytest.mark.parametrize(
    ("how", "shape"), [(setting(backbone="MNIST_CNN"), SHAPE), (setting(backbone="SmallCNN"), (1, 32, 32))]
)
def test_only_what_was_made_for_the_same_network_is_taken(
    how: Setting, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_featurizer(how, shape, SEED)
    monkeypatch.setattr(network, "make_featurizer", None)
    with pytest.raises(TypeError):
        built()


def test_a_thing_is_made_once_and_leaves_the_generator_as_its_making_does() -> None:
    torch.manual_seed(SEED)
    keep_for_children("a", lambda: torch.rand(3))
    torch.manual_seed(SEED)
    keep_for_children("a", lambda: pytest.fail("it is kept already"))
    found, after = make_inherited("a", lambda: pytest.fail("it is kept already")), torch.rand(2)
    torch.manual_seed(SEED)
    assert torch.equal(torch.cat([found, after]), torch.rand(5))
