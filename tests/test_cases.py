"""What happens with inputs as people really have them: each row of tests/cases/README.md."""

from __future__ import annotations

import re

from tests.conftest import Cases
from tests.support.places import TESTS


def test_the_table_of_cases_names_what_is_made(cases: Cases) -> None:
    said = (TESTS / "cases" / "README.md").read_text()
    for group, names in {"folders": 12, "csv_files": 4, "modes": 8, "domainbed": 5, "weights": 7}.items():
        assert f"{group}/" in said
        made = [path.name for path in cases(group).iterdir()]
        assert len(made) == names
        unnamed = {name for name in made if not re.search(re.escape(re.split(r"[ .]", name)[0]), said)}
        assert unnamed <= {"images", "good.csv", "plain.pth"}  # what is right, beside which the others stand
