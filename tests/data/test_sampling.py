from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.data.sampling import Sampler

VIEW = View("photo", "in")


def labels_of(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_minibatch_does_not_depend_on_what_was_asked_before(
    steps: list[int], batch_size: int, class_balanced: bool, seed: int
) -> None:
    labels = labels_of([30, 3, 7])
    sampler = Sampler(labels, batch_size, seed, VIEW, class_balanced=class_balanced)
    for step in steps:
        fresh = Sampler(labels, batch_size, seed, VIEW, class_balanced=class_balanced)[step]
        assert np.array_equal(sampler[step], fresh)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0),
    st.booleans(),
    st.data(),
)
def test_a_minibatch_has_its_size_and_lies_in_the_view(
    counts: list[int], class_balanced: bool, data: st.DataObject
) -> None:
    n = sum(counts)
    batch_size = data.draw(st.integers(1, n))
    minibatch = Sampler(labels_of(counts), batch_size, 0, VIEW, class_balanced=class_balanced)[
        data.draw(st.integers(0, 500))
    ]
    assert minibatch.shape == (batch_size,)
    assert minibatch.dtype == np.int64
    assert minibatch.min() >= 0
    assert minibatch.max() < n


def test_steps_seeds_and_views_give_other_minibatches() -> None:
    labels = labels_of([500, 500])
    drawn = [
        Sampler(labels, 8, seed, view)[step]
        for seed in (0, 1)
        for view in (VIEW, View("photo", "out"), View("sketch", "in"))
        for step in (0, 1, 63, 64, 65, 128)
    ]
    assert len({tuple(minibatch) for minibatch in drawn}) == len(drawn)


def test_plain_draws_are_with_replacement_and_uniform() -> None:
    labels = labels_of([90, 10])
    drawn = np.concatenate([Sampler(labels, 100, 3, VIEW)[step] for step in range(640)])
    often = np.bincount(drawn, minlength=100)
    assert np.all(abs(often - 640) < 5 * 640**0.5)
    assert len(set(Sampler(labels, 100, 3, VIEW)[0])) < 90  # 63 expected; without replacement it would be 100


def test_class_balanced_draws_each_class_and_each_of_its_examples_as_often() -> None:
    labels = labels_of([90, 0, 10, 100])
    sampler = Sampler(labels, 150, 3, VIEW, class_balanced=True)
    drawn = np.concatenate([sampler[step] for step in range(640)])
    per_class = np.bincount(labels[drawn], minlength=4)
    assert per_class[1] == 0
    assert np.all(abs(per_class[[0, 2, 3]] - len(drawn) / 3) < 5 * (len(drawn) / 3) ** 0.5)
    of_rare = np.bincount(drawn, minlength=200)[labels == 2]
    assert np.all(abs(of_rare - len(drawn) / 30) < 5 * (len(drawn) / 30) ** 0.5)


def test_a_view_smaller_than_a_minibatch_is_refused() -> None:
    Sampler(labels_of([8]), 8, 0, VIEW)
    with pytest.raises(UserError, match="photo/in has 7 examples, fewer than the 8"):
        Sampler(labels_of([7]), 8, 0, VIEW)


def test_few_examples_fill_a_minibatch_where_that_is_allowed() -> None:
    with pytest.raises(UserError, match="fewer than the 8 of a minibatch"):
        Sampler(np.arange(3), 8, 0, VIEW)
    assert set(np.concatenate([Sampler(np.arange(3), 8, 0, VIEW, allow_few=True)[s] for s in range(9)])) == {0, 1, 2}
