from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dgbench.averaging.iidmax import IIDMax
from dgbench.methods.average import NoHparams
from tests.averaging.one_hot import check, check_same, reloaded

SEGMENTS = 12


def feed(average: IIDMax, accuracies: Sequence[float], start: int = 0) -> None:
    """Segment i has mean e_i: of two steps 2 e_i and 0, but for segment 0, which is one step."""
    for i, accuracy in enumerate(accuracies, start=start):
        one_hot = torch.zeros(SEGMENTS, dtype=torch.float64)
        one_hot[i] = 1.0
        for scale in (1.0,) if i == 0 else (2.0, 0.0):
            live = {"w": one_hot * scale, "count": torch.tensor(i)}
            average.observe(live)
            live["w"].fill_(torch.nan)
        average.validate(10 * i, {"a": 1.0, "b": 1.0}, {"a": accuracy - 0.05, "b": accuracy + 0.05})


def iidmax() -> IIDMax:
    return IIDMax(NoHparams())


@pytest.mark.parametrize(
    ("accuracies", "first"),
    [
        ([0.5], 0),
        ([0.2, 0.4, 0.6], 2),
        ([0.2, 0.6, 0.5, 0.4], 1),
        ([0.6, 0.5, 0.4, 0.3], 0),
        ([0.3, 0.6, 0.5, 0.6, 0.2], 1),
        ([0.3, 0.6, 0.2, 0.7, 0.1, 0.5], 3),
        ([0.05, 0.05], 0),
    ],
)
def test_averages_from_the_best_so_far_on(accuracies: list[float], first: int) -> None:
    average = iidmax()
    feed(average, accuracies)
    segments = range(first, len(accuracies))
    check(average, dict.fromkeys(segments, 1 / len(segments)), count=len(accuracies) - 1)


def test_each_evaluation_has_an_average_of_its_own_to_choose_from() -> None:
    average = iidmax()
    assert average.weights() is None
    assert average.card.when == "always"
    for i, (accuracy, first) in enumerate(zip([0.3, 0.6, 0.5, 0.7, 0.7], [0, 1, 1, 3, 3], strict=True)):
        feed(average, [accuracy], start=i)
        check(average, dict.fromkeys(range(first, i + 1), 1 / (i + 1 - first)))


def test_domains_weigh_alike() -> None:
    average = iidmax()
    for i, accuracies in enumerate([{"a": 0.9, "b": 0.1, "c": 0.2}, {"a": 0.1, "b": 0.5, "c": 0.7}]):
        average.observe({"w": torch.tensor([float(i)])})
        average.validate(i, {}, accuracies)
    assert (average.weights() or {})["w"].tolist() == [1.0], "0.43 is more than 0.4"


def test_an_accuracy_of_nothing_is_one() -> None:
    average = iidmax()
    average.observe({"w": torch.ones(1)})
    average.validate(0, {}, {"a": 0.0})
    assert (average.weights() or {})["w"].tolist() == [1.0]


@pytest.mark.parametrize("cut", range(6))
def test_resumes_exactly_in_the_middle_of_a_segment(cut: int) -> None:
    accuracies = [0.3, 0.6, 0.2, 0.7, 0.1, 0.5]
    whole = iidmax()
    feed(whole, accuracies[:cut])
    whole.observe({"w": torch.full((SEGMENTS,), 3.0, dtype=torch.float64), "count": torch.tensor(7)})
    resumed = reloaded(whole)
    assert isinstance(resumed, IIDMax)
    for average in (whole, resumed):
        feed(average, accuracies[cut:], start=cut)
    check_same(whole, resumed)


def test_holds_no_more_copies_than_the_card_says() -> None:
    average = iidmax()
    feed(average, [0.3, 0.6])
    average.observe({"w": torch.zeros(SEGMENTS, dtype=torch.float64), "count": torch.tensor(0)})
    state = average.state()
    assert sum(bool(state[part]["mean"]) for part in ("segment", "mean")) == IIDMax.card.copies
