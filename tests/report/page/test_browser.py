"""The report in headless Chromium: tabs, sorting, the list of runs, and no error in the console."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from dgbench import load_results
from dgbench.report.page.build import build_page
from dgbench.report.selectors import default_selectors
from tests.support.places import SUPPORT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
VISIT = """
<script>
const all = (selector) => [...document.querySelectorAll(selector)];
const visible = () => all("#tables [role=tabpanel]").map((panel) => !panel.hidden);
const column = (place) => all("#tables table")[0].tBodies[0].rows.length
  && [...all("#tables table")[0].tBodies[0].rows].map((row) => row.cells[place].textContent);
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const seen = { tabs: [visible()], sorted: [] };
all("[role=tab]")[1].click();
seen.tabs.push(visible());
all("[role=tab]")[1].focus();
press("End");
seen.tabs.push(visible());
press("ArrowRight");
seen.tabs.push(visible());
const button = all("#tables table th button")[1];
for (const time of [1, 2]) {
  button.click();
  seen.sorted.push([button.parentElement.ariaSort, column(1)]);
}
seen.runs = all("#run-table tbody tr:not(.detail)").length;
all("#run-table .toggle")[0].click();
seen.detail = all("#run-table .detail")[0].textContent;
seen.curves = all("#run-table .detail")[0].querySelectorAll("polyline").length;
const form = document.getElementById("filter");
form.words.value = "diwa";
form.dispatchEvent(new Event("input"));
seen.found = document.getElementById("found").textContent;
document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
</script>
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a visitor sees, and what the console says."""
    place: Path = tmp_path_factory.mktemp("visit")
    (place / "sweep").mkdir()
    OWN["make"](place / "sweep", trials=3, hparams=5)
    results = load_results(place / "sweep")
    page = build_page(results, default_selectors(results.results))
    (place / "report.html").write_text(page.replace("</body>", f"{VISIT}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'profile'}"]
    flags += ["--enable-logging=stderr", "--dump-dom", str((place / "report.html").as_uri())]
    done = subprocess.run([str(CHROMIUM), *flags], capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen, console


def test_the_console_has_no_error(visited: tuple[dict[str, Any], str]) -> None:
    assert visited[1] == ""


def test_tabs_follow_clicks_and_keys(visited: tuple[dict[str, Any], str]) -> None:
    first, second, third = [True, False, False], [False, True, False], [False, False, True]
    assert visited[0]["tabs"] == [first, second, third, first]


def test_a_column_sorts_both_ways(visited: tuple[dict[str, Any], str]) -> None:
    (down, falling), (up, rising) = visited[0]["sorted"]
    assert (down, up) == ("descending", "ascending")
    numbers = [[float(text.split(" ")[0]) for text in texts] for texts in (falling, rising)]
    assert numbers[0] == sorted(numbers[0], reverse=True)
    assert numbers[1] == sorted(numbers[1])


def test_runs_are_listed_opened_and_found(visited: tuple[dict[str, Any], str]) -> None:
    seen = visited[0]
    assert seen["runs"] == 50
    assert "lr0.001" in seen["detail"]
    assert seen["curves"] == 2
    assert seen["found"] == "18 of 108 runs, 18 shown"
