from __future__ import annotations

import math

import pytest

from dgbench.core.limits import find_problem, has_type, interval, one_of


@pytest.mark.parametrize(
    ("text", "inside", "outside", "words"),
    [
        ("[0, 1)", [0, 0.0, 0.999], [-1e-9, 1, math.nan, math.inf], "must lie in [0, 1)"),
        ("(-1, 1e-3]", [-0.999, 1e-3], [-1, 0.0011, math.nan], "must lie in (-1, 1e-3]"),
        ("[1, inf)", [1, 10**400], [0, 0.5, math.inf], "must be at least 1"),
        ("(0, inf)", [1e-9], [0, 0.0], "must be above 0"),
        ("[0, inf]", [0, math.inf], [-1, math.nan], "must be at least 0"),
    ],
)
def test_an_interval_allows_what_lies_in_it(text: str, inside: list[float], outside: list[float], words: str) -> None:
    limit = interval(text)
    assert limit.words == words
    assert all(limit.allows(value) for value in inside)
    assert not any(limit.allows(value) for value in outside)


@pytest.mark.parametrize("text", ["", "0, 1", "[0; 1]", "[a, 1]", "[-inf, 0]"])
def test_an_interval_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match="write the interval"):
        interval(text)


def test_an_option_must_be_of_the_same_type() -> None:
    ints, floats, words = one_of((0, 1)), one_of((0.0, 0.5)), one_of(("a", "b"))
    assert [value for value in (0, 1, True, 1.0, "1", 2, None) if ints.allows(value)] == [0, 1]
    assert not ints.allows(True)
    assert not ints.allows(1.0)
    assert floats.allows(0), "an int is a fine float"
    assert not floats.allows(False)
    assert words.allows("a")
    assert not words.allows(["a"])
    assert ints.words == "is one of 0, 1"


@pytest.mark.parametrize(
    ("kind", "fine", "wrong"),
    [
        ("bool", [True], [1, 0.0, "true", None]),
        ("int", [1, -3], [True, 1.0, "1", None]),
        ("float", [1, 1.5, math.inf], [True, "1", None]),
        ("str", ["", "a"], [1, True, None]),
        ("any", [1, True, "a", None, []], []),
    ],
)
def test_types_go_by_name(kind: str, fine: list[object], wrong: list[object]) -> None:
    assert all(has_type(value, kind) for value in fine)
    assert not any(has_type(value, kind) for value in wrong)


def test_the_type_is_told_before_any_limit() -> None:
    limits = [interval("[0, 10]"), interval("[0, 5]")]
    assert find_problem("x", "int", limits) == "is an int, not 'x'"
    assert find_problem(11, "int", limits) == "must lie in [0, 10], not 11"
    assert find_problem(6, "int", limits) == "must lie in [0, 5], not 6"
    assert find_problem(5, "int", limits) is None
