from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.protocol import IN, NEW, OUT
from dgbench.data.dataset import ArrayExamples
from dgbench.data.splits import by_domain, is_held_out, parts, split, split_by_identity

FRACTIONS = st.sampled_from([0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.8, 0.9])


def examples(n: int, groups: np.ndarray | None = None) -> ArrayExamples:
    return ArrayExamples(np.zeros((n, 1)), np.zeros(n), groups)


@pytest.mark.parametrize(
    ("domain_index", "order"), [(0, [2, 3, 8, 1, 4, 5, 0, 9, 6, 7]), (1, [5, 0, 3, 7, 8, 6, 1, 2, 9, 4])]
)
def test_split_is_domainbeds(domain_index: int, order: list[int]) -> None:
    found = split(10, 0.2, 0, domain_index)
    assert found[OUT].tolist() == order[:2]
    assert found[IN].tolist() == order[2:]


@given(st.integers(2, 200), FRACTIONS, st.integers(0, 5), st.integers(0, 5))
def test_split_is_a_partition_with_domainbeds_sizes(n: int, fraction: float, trial: int, domain_index: int) -> None:
    found = split(n, fraction, trial, domain_index)
    assert sorted([*found[IN], *found[OUT]]) == list(range(n))
    assert len(found[OUT]) == int(n * fraction)
    assert found[IN].dtype == found[OUT].dtype == np.int64


def test_split_depends_on_trial_and_domain() -> None:
    found = {tuple(split(50, 0.2, trial, domain)[OUT]) for trial in range(3) for domain in range(3)}
    assert len(found) == 9


@given(st.lists(st.integers(0, 60), min_size=1, max_size=150), FRACTIONS, st.integers(0, 3))
def test_an_identity_lies_in_one_part_and_alike_in_every_domain(
    identities: list[int], fraction: float, trial: int
) -> None:
    groups = np.array(identities)
    found = split_by_identity(groups, fraction, trial)
    assert sorted([*found[IN], *found[OUT]]) == list(range(len(groups)))
    everyone = split_by_identity(np.arange(61), fraction, trial)
    assert set(groups[found[IN]]) <= set(everyone[IN])
    assert set(groups[found[OUT]]) <= set(everyone[OUT])


@given(st.integers(1, 300), FRACTIONS, st.integers(0, 20))
def test_the_stated_share_of_identities_is_held_out(n: int, fraction: float, trial: int) -> None:
    exact = Fraction(str(fraction)) * n
    assert abs(sum(is_held_out(i, Fraction(str(fraction)), trial) for i in range(n)) - exact) < 1


@pytest.mark.parametrize("fraction", ["0.2", "0.3", "0.8"])
def test_every_identity_is_held_out_equally_often_over_trials(fraction: str) -> None:
    trials = 400
    often = [sum(is_held_out(i, Fraction(fraction), trial) for trial in range(trials)) / trials for i in range(30)]
    # 5 standard deviations, and the small unevenness of runs whose length is 1 / fraction rounded
    assert np.allclose(often, float(fraction), atol=5 * 0.5 / trials**0.5)
    assert np.mean(often) == pytest.approx(float(fraction), abs=0.01)


def test_identity_split_depends_on_the_trial() -> None:
    found = {tuple(split_by_identity(np.arange(50), 0.2, trial)[OUT]) for trial in range(20)}
    assert len(found) == 20


def test_parts_splits_by_identity_where_there_are_groups() -> None:
    groups = np.repeat(np.arange(10), 5)
    grouped = parts(examples(50, groups), 1, 0, 0.2)
    assert len(set(groups[grouped[OUT]])) == 2
    assert {part: tuple(found) for part, found in grouped.items()} == {
        part: tuple(found) for part, found in parts(examples(50, groups), 1, 3, 0.2).items()
    }
    plain = parts(examples(50), 1, 3, 0.2)
    assert plain[OUT].tolist() == split(50, 0.2, 1, 3)[OUT].tolist()


@pytest.mark.parametrize(
    ("n", "groups", "fraction", "part"),
    [(4, None, 0.2, OUT), (10, None, 0.0, OUT), (10, None, 1.0, IN), (5, np.zeros(5, np.int64), 0.9, "")],
)
def test_an_empty_part_is_refused(n: int, groups: np.ndarray | None, fraction: float, part: str) -> None:
    with pytest.raises(UserError, match=f"leaves the '{part}.*empty: it has {n} examples"):
        parts(examples(n, groups), 0, 2, fraction)


class Pool(ArrayExamples):
    """Examples with parts and domains of their own."""

    def __init__(self, domains: list[int]) -> None:
        super().__init__(np.zeros((len(domains), 1)), np.zeros(len(domains)))
        self.domains = np.array(domains)
        self.parts = {"train": np.arange(0, len(domains), 2), "val": np.arange(1, len(domains), 2)}

    def score(self, logits: np.ndarray, indices: np.ndarray) -> dict[str, float]:
        return {"metric": 0.5}


def test_parts_of_its_own_are_kept_whatever_the_trial_and_the_fraction() -> None:
    pool = Pool([3, 1, 3, 7])
    for trial, fraction in ((0, 0.2), (5, 0.9)):
        assert parts(pool, trial, 0, fraction) is pool.parts


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_a_pool_falls_into_its_domains(domains: list[int], data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, len(domains) - 1), min_size=1, unique=True)))
    found = by_domain(Pool(domains), indices)
    assert list(found) == sorted({domains[i] for i in indices})
    for number, chosen in found.items():
        assert chosen.tolist() == [i for i in indices if domains[i] == number]


@given(st.integers(4, 300), FRACTIONS, st.integers(0, 20))
def test_shared_identities_are_cut_in_three(n: int, fraction: float, trial: int) -> None:
    found = split_by_identity(np.arange(n), fraction, trial, shared=True)
    assert sorted([*found[IN], *found[OUT], *found[NEW]]) == list(range(n))
    assert abs(len(found[NEW]) - n / 4) < 1
    if n >= 100:
        assert abs(len(found[OUT]) / (n - len(found[NEW])) - fraction) < 0.12


def test_new_identities_are_the_same_in_every_domain_and_others_in_every_trial() -> None:
    some = np.array([0, 0, 3, 9, 50, 51, 51, 52, 53])
    everyone = split_by_identity(np.arange(60), 0.2, 1, shared=True)
    found = split_by_identity(some, 0.2, 1, shared=True)
    assert all(set(some[indices]) <= set(everyone[part]) for part, indices in found.items())
    other = split_by_identity(np.arange(60), 0.2, 2, shared=True)
    assert set(everyone[NEW]) != set(other[NEW])
