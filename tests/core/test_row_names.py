"""Names of rows: words, joined by `+`, with values behind a colon."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.row_names import join_word, read_assignments, read_value, split_name, words_of

WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS)


@given(st.lists(st.tuples(WORDS, st.dictionaries(WORDS, VALUES, max_size=3)), min_size=1, max_size=4))
def test_what_is_joined_is_split_and_read_as_it_was(
    parts: list[tuple[str, dict[str, bool | int | float | str]]],
) -> None:
    name = "+".join(join_word(word, values) for word, values in parts)
    assert words_of(name) == [word for word, _ in parts]
    for (word, text), (_, values) in zip(split_name(name), parts, strict=True):
        read = read_assignments(text, word) if text is not None else {}
        assert list(read) == list(values)
        for own, value in values.items():
            found = read_value(read[own], type(value).__name__)
            assert (type(found), found) == (type(value), value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_the_same_without_its_zero(value: float) -> None:
    text = join_word("SAM", {"rho": value}, {"rho"})
    assert float(text.removeprefix("SAM:rho=")) == value
    assert not text.endswith(".0")


def test_what_typed_numbers_join_is_no_new_word() -> None:
    assert split_name("SAM:rho=1e+3,lr=1e-3+SWAD+T3A:k=1") == [
        ("SAM", "rho=1e+3,lr=1e-3"),
        ("SWAD", None),
        ("T3A", "k=1"),
    ]


@pytest.mark.parametrize(("text", "told"), [("", 1), ("rho", 1), ("rho=,lr", 2), ("rho=1,rho=2", 1), ("=3", 1)])
def test_what_is_no_assignment_is_refused(text: str, told: int) -> None:
    with pytest.raises(UserError) as raised:
        read_assignments(text, f"SAM:{text}")
    assert len(raised.value.problems) == told


@pytest.mark.parametrize("value", ["a,b", "ERM+SWAD", ""])
def test_a_text_that_would_be_split_is_refused_with_the_other_way(value: str) -> None:
    with pytest.raises(UserError, match=r"--set KD\.teacher="):
        join_word("KD", {"teacher": value})


@pytest.mark.parametrize(
    ("text", "kind", "options", "value"),
    [
        ("0.5", "float", (), 0.5),
        ("3", "float", (), 3.0),
        ("3", "int", (), 3),
        ("3.5", "int", (), "3.5"),
        ("TRUE", "bool", (), True),
        ("3", "number", (), 3),
        ("3.0", "number", (), 3.0),
        ("Paper", "str", ("paper", "code"), "paper"),
        ("[1, 2]", "", (), [1, 2]),
        ("x", "", (), "x"),
    ],
)
def test_a_text_becomes_a_value_of_its_type(text: str, kind: str, options: tuple[str, ...], value: object) -> None:
    found = read_value(text, kind, options)
    assert (type(found), found) == (type(value), value)
