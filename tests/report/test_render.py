"""Each format of a report: DomainBed's lines, LaTeX that compiles whatever the names, numbers that can be read back."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.version import __version__
from dgbench.report.document import MOST_NOTES, below
from dgbench.report.render import FORMATS, text
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import Report, build
from dgbench.report.tidy import FIELDS

NASTY = "a_b&c%d$e#f{g}h~i^j\\k<l>|m[n]\"o'p`q"


def report(
    domains: tuple[str, str] = ("C", "L"),
    row: str = "ERM",
    lost: int = 0,
    why: str = "",
    selectors: tuple[str, ...] = ("oracle", "leave-one-domain-out"),
) -> Report:
    """One row over two trials; the second domain lacks `lost` hyperparameter seeds in trial 0."""
    folds = tuple(LeaveOneDomainOut(pairs=False).folds(domains))
    spots: dict[tuple[int, int], dict[int, Candidate]] = {}
    for position, trial, score in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.25), (1, 1, 0.25)):
        fold = folds[position]
        table = np.full((1, len(fold.evaluated)), score)
        spots[position, trial] = {0: Series(f"r{position}{trial}", (4,), fold.evaluated, table)}
    for seed in range(1, lost + 1):
        spots[1, 0][seed] = Gap(f"g{seed}", row, "D", folds[1].held_out, seed, 0, "failed", f"{why}{seed}")
    results = Results(
        "leave-one-domain-out", "p_1", 0, (row,), {"D": (0, 1)}, folds, {(row, "D"): spots}, 4, notes=("a_note",)
    )
    return build(results, [SELECTORS[name] for name in selectors])


def test_domainbeds_form_has_its_bytes_and_then_says_how() -> None:
    lines = FORMATS["domainbed"](report()).splitlines()
    assert lines[:5] == [
        "Total records: 4",
        "",
        "-------- Dataset: D, model selection method: test-domain validation set (oracle)",
        "Algorithm             C                     L                     Avg                  ",
        "ERM                   60.0 +/- 7.1          25.0 +/- 0.0          42.5                 ",
    ]
    assert lines[5].startswith(
        "# protocol: leave-one-domain-out | selector: oracle | preset: p_1 | trials: 2 (0-1) | +/-: "
    )
    assert lines[6] == "# hparams: 0 | runs: 4 counted, 0 missing, 0 failed"
    assert lines[7] == "# evaluated steps: 1"
    assert lines[8] == f"# collected by: dgbench {__version__}"
    assert lines[9] == "# reads: labelled data of the test domain that is not reported, at the last step only"
    assert lines[10] == "# in-domain accuracy of what was chosen (training domains' validation parts): ERM 42.5"
    assert lines[11:15] == [
        "",
        "-------- Averages, model selection method: test-domain validation set (oracle)",
        "Algorithm                  D                          Avg                       ",
        "ERM                        42.5 +/- 3.5               42.5                      ",
    ]
    assert lines[-3:] == [
        "",
        "leave-one-domain-out on D: not available, the sweep has no folds with two test domains",
        "a_note",
    ]


def test_text_has_one_signature_below_all_tables() -> None:
    assert text(report()).splitlines() == [
        "Total records: 4",
        "",
        "-------- Dataset: D, model selection method: test-domain validation set (oracle)",
        "Algorithm  C             L             Avg",
        "ERM        60.0 +/- 7.1  25.0 +/- 0.0  42.5",
        "# in-domain accuracy of what was chosen (training domains' validation parts): ERM 42.5",
        "",
        "# protocol: leave-one-domain-out | preset: p_1 | trials: 2 (0-1) | +/-: "
        "std over trials / sqrt(trials), ddof 0",
        "# hparams: 0 | runs: 4 counted, 0 missing, 0 failed",
        "# evaluated steps: 1",
        f"# collected by: dgbench {__version__}",
        "# reads: labelled data of the test domain that is not reported, at the last step only",
        "# leave-one-domain-out on D: not available, the sweep has no folds with two test domains",
        "# a_note",
    ]


def test_what_differs_between_selectors_names_them() -> None:
    lines = text(report(selectors=("oracle", "training-domain"))).splitlines()
    (reads,) = (line for line in lines if line.startswith("# reads: "))
    assert reads == (
        "# reads: labelled data of the test domain that is not reported, at the last step only [oracle]; "
        "mean accuracy on the training domains' validation parts, at every evaluated step [training-domain]"
    )
    assert sum(line.startswith("# protocol: ") for line in lines) == 1


def test_a_run_without_a_result_is_named_once_for_a_data_set() -> None:
    lines = text(report(lost=1, why="r", selectors=("oracle", "training-domain"))).splitlines()
    assert [line for line in lines if "lacks" in line] == ["# ERM lacks ERM [L], trial 0 hparams 1: failed (r1)"]


def test_no_text_is_cut_off() -> None:
    lines = text(
        report(domains=("SpawriousO2O_medium_and_more", "L"), row="A_name_of_more_than_twenty_letters")
    ).splitlines()
    header, row = lines[3], lines[4]
    assert "SpawriousO2O_medium_and_more  L " in header
    assert row.startswith("A_name_of_more_than_twenty_letters  60.0 +/- 7.1")
    assert header.index("L  ") == row.index("25.0")


def test_long_lists_of_notes_are_cut_short_and_say_so() -> None:
    table = report(lost=MOST_NOTES + 5, why="reason ").tables[0]
    lines = list(below(table))
    assert len(lines) == 5 + MOST_NOTES + 1
    assert lines[-1] == "... and 5 more, all of them with --format json"
    content = json.loads(FORMATS["json"](report(lost=MOST_NOTES + 5)))
    assert len(content["gaps"]) == MOST_NOTES + 5


def test_markdown_escapes_what_would_be_markup() -> None:
    lines = FORMATS["markdown"](report(domains=("a|b", "*c*"), row="x_y")).splitlines()
    assert lines[2:5] == [
        r"| Algorithm | a\|b | \*c\* | Avg |",
        "| --- | ---: | ---: | ---: |",
        r"| x\_y | 60.0 ± 7.1 | 25.0 ± 0.0 | 42.5 |",
    ]
    assert lines[0] == "### Dataset: D, model selection method: test-domain validation set (oracle)"
    assert lines[-1] == r"- a\_note"


def test_csv_holds_a_row_a_trial_in_full_precision_and_no_number_for_what_is_incomplete() -> None:
    first, second, third, fourth = csv.DictReader(io.StringIO(FORMATS["csv"](report(lost=2))))
    assert list(first) == list(FIELDS)
    assert [row["domain"] for row in (first, second, third, fourth)] == ["C", "C", "L", "L"]
    assert [float(row["score"]) for row in (first, second)] == [50, 70]
    assert (first["state"], first["candidates"], first["lacking"], first["run"]) == ("complete", "1", "0", "r00")
    assert (third["state"], third["candidates"], third["lacking"]) == ("partial", "1", "2")
    assert (third["dataset"], third["row"], third["selector"], third["metric"]) == ("D", "ERM", "oracle", "accuracy")


def test_json_says_what_was_picked_and_which_runs_are_lacking() -> None:
    content = json.loads(FORMATS["json"](report(lost=2)))
    whole, lost, average = content["tables"][0]["rows"][0]["cells"]
    assert whole["mean"] == 60
    assert whole["trials"][1] == {
        "trial": 1,
        "pick": {
            "hparams_seed": 0,
            "step": 4,
            "run": "r01",
            "value": 0.7,
            "score": 0.7,
            "in_domain": 0.7,
            "by_domain": {},
            "examples": {},
            "diverged": False,
        },
        "complete": 1,
        "asked": 1,
    }
    assert (lost["mean"], lost["gaps"], average["gaps"]) == (None, [0, 1], [0, 1])
    assert [gap["run"] for gap in content["gaps"]] == ["g1", "g2"]
    assert content["gaps"][0]["held_out"] == ["L"]
    assert content["absent"] == list(report().absent)
    assert content["tables"][1]["dataset"] is None


def test_latex_is_ascii_and_escapes_what_would_be_markup() -> None:
    content = FORMATS["latex"](report(domains=(NASTY, "Café 中"), row="x_y"))
    assert content.isascii()
    assert r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in content
    assert r" & Caf\'{e} U+4E2D & Avg" in content
    assert r"x\_y & 60.0 $\pm$ 7.1 & 25.0 $\pm$ 0.0 & 42.5 \\" in content


ODD = "bell\x07 \x1b[31mred\nnext\u2028line \u202eback :bomb: [red]"


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_prints_what_a_terminal_obeys_or_what_breaks_a_line(form: str) -> None:
    plain = FORMATS[form](report(domains=("odd", "L"), row="row", lost=1, why="why"))
    odd = FORMATS[form](report(domains=(ODD, "L"), row=ODD, lost=1, why=ODD))
    assert all(char.isprintable() or char == "\n" for char in odd) or form == "json"
    assert odd.count("\n") == plain.count("\n")
    if form == "json":
        (row,) = json.loads(odd)["tables"][0]["rows"]
        assert row["row"] == ODD
        assert "\x1b" not in odd
    elif form != "latex":
        for shown in (r"bell\x07 ", r"back :bomb: [red]"):
            assert shown in odd.replace("\\\\", "\\").replace("\\[", "[").replace("\\]", "]")


@pytest.mark.parametrize("start", ["=1+1", "+90%", "-90%", "@SUM(A1)", "\tx", "\rx"])
def test_csv_holds_no_text_that_a_spreadsheet_runs(start: str) -> None:
    rows = list(csv.reader(io.StringIO(FORMATS["csv"](report(domains=(start, "L"), row=start)))))
    texts = [cell for row in rows for cell in row]
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in texts)
    assert rows[1][3].endswith(start.strip())
    assert rows[1][3][0] in ("'", "\\")


def test_csv_leaves_numbers_below_zero_numbers() -> None:
    (fold,) = LeaveOneDomainOut(pairs=False, only=("a",)).folds(("a", "b"))
    series = Series("r", (0,), fold.evaluated, np.full((1, len(fold.evaluated)), -0.25))
    results = Results("p", "p", 0, ("ERM",), {"D": (0,)}, (fold,), {("ERM", "D"): {(0, 0): {0: series}}})
    first, *_ = csv.DictReader(io.StringIO(FORMATS["csv"](build(results, [SELECTORS["oracle"]]))))
    assert float(first["score"]) == -25
