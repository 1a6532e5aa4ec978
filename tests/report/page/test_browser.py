"""The report in headless Chromium: by keyboard, on a phone, in light and dark, and without an error in the console."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgbench import load_results
from dgbench.report.page.build import build_page
from dgbench.report.selectors import default_selectors
from tests.support.places import SUPPORT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SERIOUS = {"serious", "critical"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'dgbench[dev]'")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of a sweep of two data sets, of which one run failed."""
    place: Path = tmp_path_factory.mktemp("visit")
    for name in "ab":
        (place / name).mkdir()
    table = OWN["make"](place / "a", trials=3, hparams=3)
    OWN["make"](place / "b", trials=1, hparams=3, dataset="RotatedMNIST")
    failed = OWN["folder"](place / "a", table, held_out=("+90%",), kind="train", trial=0, hparams_seed=1)
    (failed.path / "done").unlink()
    failed.fail({"exit": 1, "error": "RuntimeError: out of memory", "traceback": "", "log": ""}, 1, final=True)
    failed.log_path.write_text("step 1\n" + 300 * "long " + "\n")
    results = load_results(place / "a", place / "b")
    (place / "report.html").write_text(build_page(results, default_selectors(results.results)))
    return (place / "report.html").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The report just opened; in the end, its console must be empty and nothing may have been asked of anywhere."""
    found = browser.new_page(viewport=DESK)
    said: list[str] = []
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    found.goto(address)
    yield found
    found.close()
    assert said == []


def selected(page: Any, group: str) -> list[bool]:
    return [tab.get_attribute("aria-selected") == "true" for tab in page.locator(f"[id^={group}-tab]").all()]


def test_tabs_follow_keys_and_clicks(page: Any) -> None:
    first, second, third = [True, False, False], [False, True, False], [False, False, True]
    assert selected(page, "selector") == first
    page.focus("#selector-tab-1")
    for key, expected in (("ArrowRight", second), ("End", third), ("ArrowRight", first), ("ArrowLeft", third)):
        page.keyboard.press(key)
        assert selected(page, "selector") == expected
        visible = [panel.is_visible() for panel in page.locator("[id^=selector-panel]").all()]
        assert visible == expected
    page.click("#selector-tab-2")
    assert selected(page, "selector") == second


def test_a_column_sorts_both_ways_by_keyboard(page: Any) -> None:
    table = page.locator("#selector-panel-1 table").first
    buttons, first = table.locator("thead button"), table.locator("tbody tr td:nth-of-type(1)")
    buttons.nth(2).focus()
    for direction, reverse in (("descending", True), ("ascending", False)):
        page.keyboard.press("Enter")
        assert buttons.nth(2).locator("..").get_attribute("aria-sort") == direction
        cells = table.locator("tbody tr td:nth-of-type(2)").all()
        values = [float(cell.get_attribute("data-value")) for cell in cells]
        assert len(values) == 3
        assert values == sorted(values, reverse=reverse)
    buttons.nth(1).focus()
    for _ in range(2):
        page.keyboard.press("Enter")
        assert [bool(cell.get_attribute("data-value")) for cell in first.all()] == [True, False, False], (
            "none come last"
        )


def test_runs_are_listed_opened_and_found_by_keyboard(page: Any) -> None:
    assert page.locator("#run-table tbody tr:not(.detail)").count() == 50
    page.locator("#run-table .toggle").first.focus()
    page.keyboard.press("Enter")
    detail = page.locator("#run-table .detail").first
    assert "lr" in detail.inner_text()
    assert detail.locator("polyline").count() == 2
    page.focus("#filter input")
    page.keyboard.type("failed memory")
    assert page.locator("#found").inner_text() == "1 of 96 runs, 1 shown"
    page.locator("#run-table .toggle").first.press("Enter")
    assert "out of memory" in page.locator("#run-table .detail").first.inner_text()


def test_a_mark_says_which_run_it_is(page: Any) -> None:
    titles = page.locator("#dataset-panel-2 svg use title")
    assert any("trial 0, draw 1, step 9" in text for text in titles.all_text_contents())


def test_a_phone_scrolls_tables_and_figures_but_not_the_page(page: Any) -> None:
    page.set_viewport_size(PHONE)
    page.fill("#filter input", "failed")
    page.locator("#run-table .toggle").first.click()
    for tab in page.locator("[role=tab]").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    texts = page.locator("main p, main figcaption, .detail dd, .detail pre").filter(visible=True).all()
    assert len(texts) > 10
    assert max(text.bounding_box()["width"] for text in texts) <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    page.fill("#filter input", "failed")
    page.locator("#run-table .toggle").first.click()
    for tab in ("selector-tab-2", "dataset-tab-2"):
        page.click(f"#{tab}")
    faults = axe.run(page).response["violations"]
    serious = [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in faults if fault["impact"] in SERIOUS]
    assert serious == []
