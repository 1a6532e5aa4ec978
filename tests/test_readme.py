"""README says nothing that isn't so: its counts are the catalogue's, its table is the one in results/."""

from __future__ import annotations

import re

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.version import __version__
from dgbench.list import KINDS
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text()
COUNTED = {
    "algorithms": r"(\d+) training algorithms",
    "averages": r"(\d+) weight averages",
    "mergers": r"(\d+) mergers",
    "adapters": r"(\d+) test-time adapters",
    "datasets": r"(\d+) data sets",
}


def test_it_is_short() -> None:
    assert README.count("\n") <= 180


@pytest.mark.parametrize("what", COUNTED)
def test_it_counts_the_catalogue(what: str, catalogue: Catalogue) -> None:
    found = re.search(COUNTED[what], README)
    assert found
    entries = catalogue.of_kind(KINDS[what])
    listed = [
        entry for entry in entries.values() if not (what == "datasets" and (entry.card.path or entry.card.unsupported))
    ]
    assert int(found[1]) == len(listed)


def test_its_table_is_the_recorded_one() -> None:
    table = README.partition("```text\n")[2].partition("```")[0].rstrip()
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[2:]]
    recorded = (ROOT / "results" / "quickstart.md").read_text()
    assert len(rows) == 10
    for name, *cells in rows:
        own = (cell.replace("+/-", "±").replace("[", r"\[").replace("]", r"\]") for cell in cells)
        assert f"| {' | '.join((name, *own))} |" in recorded


def test_the_version_is_the_same_everywhere() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
