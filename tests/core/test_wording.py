from __future__ import annotations

import pytest

from dgbench.core.wording import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photo, real|é 中", "photo, real|é 中"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("c\nd\t\r", r"c\nd\t\r"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("\u202ebackwards", r"\u202ebackwards"),
    ],
)
def test_what_is_not_to_be_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode()
