"""Scores on whole test domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgbench import cli, collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import AllDomains, View
from dgbench.report.reader import read_results
from dgbench.report.results import Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import build
from dgbench.report.whole import REPORTED, whole_domains
from tests.support import own_sweep


def test_the_score_is_over_both_parts_and_the_choice_is_as_before(tmp_path: Path) -> None:
    own_sweep.make(tmp_path, trials=1)
    before = read_results(tmp_path)
    after = whole_domains(before)
    (dataset,) = before.datasets
    for position in before.reported(dataset):
        fold = before.folds[position]
        (test,) = fold.test
        out = View(test.domain, "out")
        for seed, old in before.candidates["ERM", dataset][position, 0].items():
            new = after.candidates["ERM", dataset][position, 0][seed]
            assert isinstance(old, Series)
            assert isinstance(new, Series)
            n = [old.sizes[old.views.index(view)] for view in (test, out)]
            parts = [old.mean([view]) for view in (test, out)]
            np.testing.assert_allclose(new.mean([test]), np.average(parts, axis=0, weights=n))
            assert new.sizes[new.views.index(test)] == sum(n)
            assert all(np.array_equal(new.mean([view]), old.mean([view])) for view in old.views if view != test)
    for name in ("training-domain", "oracle", "leave-one-domain-out"):
        assert picked(before, name) == picked(after, name) != []


def picked(results: Results, selector: str) -> list[tuple[str, int]]:
    """The run and step of each choice in a selector's table."""
    table = build(results, [SELECTORS[selector]]).tables[0]
    outcomes = [outcome for row in table.rows.values() for cell in row for outcome in cell.trials.values()]
    return [(outcome.pick.run, outcome.pick.step) for outcome in outcomes if outcome.pick]


def test_a_line_below_the_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_sweep.make(tmp_path, trials=1)
    assert cli.run(collect.main, [str(tmp_path), "--report", "full"]) == 0
    assert f"# reported: {REPORTED}\n" in capsys.readouterr().out
    assert cli.run(collect.main, [str(tmp_path)]) == 0
    assert "# reported" not in capsys.readouterr().out


def test_where_there_are_no_two_parts_it_is_refused(tmp_path: Path) -> None:
    own_sweep.make(tmp_path, trials=1, protocol=AllDomains())
    with pytest.raises(UserError, match=r"--report full: on .* the test is on the part out, which has no other"):
        whole_domains(read_results(tmp_path))
