"""The report: it holds what `collect` prints, whatever is missing, and needs nothing outside itself."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgbench import load_results
from dgbench.core.errors import UserError
from dgbench.report.__main__ import main
from dgbench.report.comparison import table_statistics
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.figures.gallery import drawings
from dgbench.report.figures.panels import Drawing
from dgbench.report.figures.subject import subjects
from dgbench.report.page.build import build_page, write_figures
from dgbench.report.page.content import problems, progress
from dgbench.report.selectors import SELECTORS, default_selectors
from dgbench.report.tables import build
from dgbench.store.run_folder import RunFolder
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
FAILURE = "RuntimeError: out of memory"


def page_of(*folders: Path, partial: bool = False) -> str:
    results = load_results(*folders)
    return build_page(results, default_selectors(results.results), partial)


def runs_in(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', page)
    assert found
    runs: list[dict[str, Any]] = json.loads(found[1])
    return runs


def drawings_of(folder: Path) -> dict[str, Drawing]:
    results = load_results(folder)
    (subject,) = subjects(results, build(results.results, list(SELECTORS.values())))
    return {drawing.name: drawing for drawing in drawings(subject)}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=3, hparams=3)
    return root


@pytest.fixture(scope="module")
def page(own: Path) -> str:
    return page_of(own)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of which one run failed with a log, and one was not begun."""
    root: Path = tmp_path_factory.mktemp("partial")
    table = OWN["make"](root)
    failed = OWN["folder"](root, table, held_out=("+90%",), kind="train", trial=0, hparams_seed=1)
    (failed.path / "done").unlink()
    failed.fail({"exit": 1, "error": FAILURE, "traceback": "", "log": ""}, 1, final=True)
    failed.log_path.write_text("step 1\n<script>alert(1)</script>\n\x1b[31mout of memory\n")
    missing = OWN["folder"](root, table, held_out=("-90%",), kind="train", trial=1, hparams_seed=0)
    for path in missing.path.iterdir():
        path.unlink()
    return root


def test_its_tables_have_the_digits_of_collect(own: Path, page: str) -> None:
    results = load_results(own)
    for table in build(results.results, default_selectors(results.results)).tables:
        assert table.selector.label in page
        for cells in table.rows.values() if table.dataset else ():
            for cell in cells:
                assert str(cell).replace("+/-", "±") in page
    assert page.count('role="tab" id=') == page.count('role="tabpanel" id=') == 3
    assert page.count("</progress> 54 of 54") == 2, "six folds, three trials and three draws of ERM and ERM+SWAD"
    assert page.count("</progress> 18 of 18") == 1


def test_the_highest_number_of_a_column_is_bold(page: str) -> None:
    columns: dict[int, list[tuple[float, bool]]] = {}
    body = page.partition('id="table-0"')[2].partition("</table>")[0].partition("<tbody>")[2]
    for line in body.split("<tr>")[1:]:
        for place, cell in enumerate(re.findall(r'<td data-value="([^"]+)"[^>]*>(.*?)</td>', line)[:4]):
            columns.setdefault(place, []).append((float(cell[0]), "<strong>" in cell[1]))
    assert len(columns) == 4
    for cells in columns.values():
        assert max(cells)[1]
        assert any(not bold for _, bold in cells)


def test_rows_are_compared_with_the_first_within_trials(own: Path, page: str) -> None:
    results = load_results(own).results
    (found,) = (
        row for row in table_statistics(results, SELECTORS["training-domain"], SET).rows if row.row == "ERM+DiWA"
    )
    assert found.delta
    body = page.partition('id="table-0"')[2].partition("</table>")[0]
    assert "Δ ERM" in body
    text = f"{100 * found.delta.difference:+.1f} ± {100 * found.delta.by_trial.error:.1f}".replace("-", "−")
    assert f">{text}</td>" in body
    assert body.count("†") >= 1


def test_it_names_the_kinds_of_machines(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, hparams=1, trials=1)
    for run in table.runs:
        RunFolder(tmp_path, run.id).finish({**OWN["SUMMARY"], "machine": f"{run.kind} machine"})
    assert "train machine (ERM, ERM+SWAD); merge machine (ERM+DiWA)" in page_of(tmp_path)


def test_it_names_the_network(page: str) -> None:
    assert "network on ColoredMNIST: MNIST_CNN | random weights | parameters not recorded" in page


def test_it_names_nothing_outside_itself(page: str) -> None:
    assert "://" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", page)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert len(page) < 600_000


def test_every_id_is_there_once_and_every_reference_leads_somewhere(page: str) -> None:
    markup = page.partition('<script type="application/json"')[0]
    ids = re.findall(r'\sid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))
    named = re.findall(r'(?:aria-labelledby|aria-controls|aria-describedby)="([^"]+)"', markup)
    named += re.findall(r'href="#([^"]+)"', markup) + re.findall(r'url\(#([^)"]+)\)', markup)
    assert set(named) - {"dataset-panel-1"} <= set(ids)


def test_figures_are_drawn_in_colors_of_the_page(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        assert 'role="img"' in figure
        assert "<title" in figure
        assert not re.findall(r"#[0-9a-f]{6}", figure)
    assert re.search(r"<title>ERM \[-90%\], trial 0, draw 1, step 9: in [\d.]+, out [\d.]+ ", page)


def test_what_is_missing_or_failed_is_said_with_reason_and_log(partial: Path) -> None:
    page = page_of(partial)
    sweep = page.partition('id="tables"')[0]
    assert FAILURE in sweep
    assert f"{partial}/runs/" in sweep
    assert "log.txt" in sweep
    assert "1 failed" in sweep
    assert "1 missing" in sweep
    assert "1 run failed" in page.partition('id="tables"')[2]
    states = [run["state"] for run in runs_in(page)]
    assert (states.count("failed"), states.count("missing")) == (1, 1)
    assert "*</td>" in page_of(partial, partial=True)


def test_the_overview_counts_models_and_groups_failures(partial: Path) -> None:
    results = load_results(partial)
    found = progress(results)["ERM"]["ColoredMNIST"]
    assert (found.done, found.planned, found.lacking) == (22, 24, "1 failed, 1 missing")
    (problem,) = problems(results.runs)
    assert problem.why == FAILURE
    assert problem.runs == "ERM on ColoredMNIST [+90%], trial 0"


def test_text_of_files_stays_text(partial: Path) -> None:
    page = page_of(partial)
    assert "<script>alert" not in page
    (failed,) = (run for run in runs_in(page) if run["state"] == "failed")
    assert failed["tail"] == "step 1\n<script>alert(1)</script>\n\\x1b[31mout of memory"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    OWN["make"](tmp_path, domains=("</script><b>", "$x^2_{$", "é"), hparams=1, trials=1)
    page = page_of(tmp_path)
    assert "<b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page


def test_each_run_has_hyperparameters_and_curves(page: str, own: Path) -> None:
    runs = runs_in(page)
    assert len(runs) == len(load_results(own).runs) == 72
    trained = next(run for run in runs if run["kind"] == "train")
    assert trained["hparams"] == {"lr": 0.001}
    assert trained["curves"]["model"]["steps"] == [0, 5, 9]
    assert trained["curves"]["SWAD"]["steps"] == [9]
    assert all(len(trained["curves"]["model"][side]) == 3 for side in ("in", "out"))
    assert all(run["curves"] for run in runs), "also runs that hold out two domains, which are no column"


def test_a_folder_of_domainbed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for algorithm in ("ERM", "IRM"):
        for env in range(4):
            keys = [f"env{i}_{part}_acc" for i in range(4) for part in ("in", "out")]
            records = [{"step": step, **dict(zip(keys, rng.random(8), strict=True))} for step in (0, 3)]
            args = RunArgs("VLCS", algorithm, (env,), 0, 0).to_json(4, 0.2)
            folder = write_run(tmp_path, args, {"lr": 10.0**-env}, records)
    (folder / "done").unlink()
    (folder / "out.txt").write_text("Killed\n")
    page = page_of(tmp_path)
    assert "4 of 4" in page
    assert "3 of 4, 1 unfinished" in page
    assert str(folder / "out.txt") in page
    assert "In-domain against out-of-domain" in page


def test_several_folders_and_data_sets_make_one_report(own: Path, tmp_path: Path) -> None:
    OWN["make"](tmp_path, dataset="RotatedMNIST", trials=3, hparams=3)
    page = page_of(own, tmp_path)
    assert page.count('role="tab" id=') == 3 + 2
    assert "Mean over domains of each data set" in page
    assert f"<title>{own}, {tmp_path}: report</title>" in page


def test_a_sweep_without_a_finished_run_has_a_report(tmp_path: Path) -> None:
    OWN["make"](tmp_path, hparams=1, trials=1)
    for done in tmp_path.glob("runs/*/done"):
        done.unlink()
    page = page_of(tmp_path)
    assert "0 of 12 runs are finished" in page
    assert "Nothing to draw yet." in page


def test_hyperparameters_that_were_drawn_are_drawn_by_importance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"env{i}_{part}_acc" for i in range(4) for part in ("in", "out")]
    for draw in range(12):
        lr, dropout = 10.0 ** -(1 + draw % 6), float(rng.random())
        for env in range(2):
            record = {"step": 0, **dict.fromkeys(keys, env / 4 + 0.1 * (draw % 6))}
            args = RunArgs("VLCS", "ERM", (env,), draw, 0).to_json(4, 0.2)
            write_run(tmp_path, args, {"lr": lr, "dropout": dropout, "batch_size": 32}, [record])
    lr, dropout = drawings_of(tmp_path)["hyperparameters"].render().axes
    assert [axes.get_xlabel() for axes in (lr, dropout)] == ["lr", "dropout"]
    assert lr.get_xscale() == "log"
    heights = sorted(set(np.round(lr.lines[1].get_ydata(), 6)))
    assert heights == pytest.approx([-25, -15, -5, 5, 15, 25]), "the same on both domains, whose means differ"


def test_figures_are_written_for_papers(own: Path, tmp_path: Path) -> None:
    results = load_results(own)
    written = list(write_figures(results, default_selectors(results.results), tmp_path / "new" / "figures"))
    assert {path.suffix for path in written} == {".pdf", ".svg", ".png"}
    assert tmp_path / "new" / "figures" / "ColoredMNIST-accuracy.pdf" in written
    assert all(path.stat().st_size > 2_000 for path in written)


def test_the_command_writes_the_report_the_figures_or_both(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(own), "--selector", "oracle"]) == 0
    assert "test-domain validation set (oracle)" in (tmp_path / "report.html").read_text()
    assert re.fullmatch(r"wrote report.html \(0\.\d MB\)\n", capsys.readouterr().out)
    assert main([str(own), "--figures", "figures"]) == 0
    assert re.fullmatch(r"wrote \d+ files to figures\n", capsys.readouterr().out)


@pytest.mark.slow
def test_a_report_and_its_figures_need_no_torch(own: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from dgbench.report.__main__ import main; "
        f"main([{str(own)!r}, '-o', 'a.html', '--figures', 'figures', '--selector', 'oracle']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").exists()


def test_all_that_is_wrong_is_said_at_once(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        main([str(own), "-o", str(tmp_path / "no" / "a.html"), "--selector", "orakle"])
    assert len(error.value.problems) == 2


def test_without_its_packages_it_says_how_to_get_them(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"needs the package matplotlib: pip install 'dgbench\[report\]'"):
        main([str(own)])
