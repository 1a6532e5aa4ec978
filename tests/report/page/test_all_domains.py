"""The distance of rows from models that trained on the tested domain too."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from dgbench import load_results
from dgbench.core.errors import UserError
from dgbench.core.protocol import AllDomains
from dgbench.report.__main__ import main
from dgbench.report.page.all_domains import distance, read_reference
from dgbench.report.tables import AVERAGE
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep, and the same on all domains."""
    own, reference = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("reference")
    OWN["make"](own)
    OWN["make"](reference, protocol=AllDomains(), seed=1)
    return own, reference


def test_distances_are_differences_of_the_two_tables(folders: tuple[Path, Path]) -> None:
    own, all_domains = map(load_results, folders)
    table = own.report("training-domain").tables[0]
    reference = read_reference(str(folders[1]), own.results).table("ColoredMNIST", "training-domain")
    assert reference
    cells = [
        frame[frame.dataset == "ColoredMNIST"].set_index(["row", "column"])["mean"]
        for frame in (results.table("training-domain") for results in (own, all_domains))
    ]
    expected = cells[0] - cells[1]
    for row in table.rows:
        found = distance(row, table, reference)
        assert found
        assert found.row == row
        assert found.by_column == pytest.approx(expected[row].to_dict())
        assert found.average == found.by_column[AVERAGE]


def test_the_report_has_a_column_and_rows_that_are_not_sorted(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(folders[0]), "--all_domains", str(folders[1]), "--selector", "training-domain"]) == 0
    page = (tmp_path / "report.html").read_text()
    body, _, foot = page.partition('id="table-0"')[2].partition("</table>")[0].partition("<tfoot>")
    assert "to all domains" in body
    assert foot.count("trained on all domains</th>") == 3
    assert re.search(r">[+−]\d+\.\d</td></tr>", body)


def test_another_protocol_or_setting_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its protocol is leave-one-domain-out; it takes a sweep launched with --all_d"):
        main([str(folders[0]), "--all_domains", str(folders[0]), "-o", str(tmp_path / "a.html")])
    OWN["make"](tmp_path, protocol=AllDomains(), preset="domainbed-2024")
    with pytest.raises(UserError, match="differ in preset: domainbed-2020 in the report, domainbed-2024"):
        main([str(folders[0]), "--all_domains", str(tmp_path), "-o", str(tmp_path / "a.html")])
