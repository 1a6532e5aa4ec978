from __future__ import annotations

import pytest

from dgbench.core.grid import columns, pipes


def test_columns_are_as_wide_as_their_widest_cell_and_no_narrower_than_asked() -> None:
    rows = [["", "first", "b"], ["long name", "x", "no"]]
    assert list(columns(rows)) == ["           first  b ", "long name  x      no"]
    assert list(columns([["", "a"], ["", "b"]])) == ["  a", "  b"]
    assert list(columns(rows, 6)) == ["           first   b     ", "long name  x       no    "]


def test_a_markdown_table_has_its_header_above_the_rules_and_every_cell_escaped() -> None:
    rows = [["a*", "n"], ["b|c", "1"], ["d", "20"]]
    escaped = pipes(rows, [" --- ", " ---: "], lambda cell: cell.replace("|", r"\|").replace("*", r"\*"))
    assert list(escaped) == [r"| a\* | n |", "| --- | ---: |", r"| b\|c | 1 |", "| d | 20 |"]
    assert list(pipes([["alone"]], ["---"])) == ["| alone |", "|---|"]


def test_rows_of_different_lengths_make_no_table() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(columns([["a", "b"], ["c"]]))
