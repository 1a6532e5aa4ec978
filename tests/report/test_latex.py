"""LaTeX as papers need it: a fragment that compiles in a page of two columns, whatever the names."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.report.latex import NOTES, Notes, latex
from dgbench.report.networks import NetworkLine
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import Report, Section, build
from tests.report.test_render import NASTY

CONFERENCE = r"""\documentclass[10pt,twocolumn,letterpaper]{article}
\usepackage[margin=0.8in,columnsep=0.25in]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\title{A title} \author{An author}
\begin{document}
\maketitle
\section{Results} Tables~\ref{tab:dgbench-oracle} and so on.
\input{tables}
\end{document}
"""
compiles = pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")


def report(datasets: int = 1, rows: tuple[str, ...] = ("ERM", "SAM", "CORAL"), lost: int = 0, odd: str = "") -> Report:
    """Rows with accuracies 0.5, 0.6, ... on every domain of some data sets, of two domains each, in two trials."""
    names = tuple(f"D{number}{odd}" for number in range(datasets))
    folds = tuple(LeaveOneDomainOut(pairs=False).folds((f"a{odd}", f"b{odd}")))
    candidates: dict[tuple[str, str], dict[tuple[int, int], dict[int, Candidate]]] = {}
    for place, row in enumerate(rows):
        for number, name in enumerate(names):
            spots = candidates.setdefault((row, name), {})
            for position, fold in enumerate(folds):
                for trial in (0, 1):
                    table = np.full((1, len(fold.evaluated)), 0.5 + place / 10)
                    series = Series(f"{row}{name}{position}{trial}", (0,), fold.evaluated, table)
                    spots[2 * number + position, trial] = {0: series}
                    for seed in range(1, lost + 1):
                        why = f"error: {odd}"
                        gap = Gap(f"g{seed}", row, name, fold.held_out, seed, trial, "failed", why)
                        spots[2 * number + position, trial][seed] = gap
    places = {name: (2 * number, 2 * number + 1) for number, name in enumerate(names)}
    results = Results("leave-one-domain-out", "p_1", 0, rows, places, folds * datasets, candidates, notes=("a_note",))
    return build(results, [SELECTORS["oracle"], SELECTORS["training-domain"]])


def test_one_table_holds_all_data_sets() -> None:
    content = latex(report(3))
    assert content.count(r"\begin{table") == 2, "one for each selector"
    assert r"Algorithm & D0 & D1 & D2 & Avg \\" in content
    assert r"\label{tab:dgbench-oracle}" in content
    assert r"\label{tab:dgbench-training-domain}" in content
    assert r"\caption{Accuracy (\%) on each data set, mean over its domains; model selection: test-domain" in content


def test_a_single_data_set_has_its_domains() -> None:
    content = latex(report())
    assert r"Algorithm & a & b & Avg \\" in content
    assert r"\label{tab:dgbench-D0-oracle}" in content
    assert content.count(r"\begin{table}") == 2


def test_the_best_is_bold_and_the_second_underlined() -> None:
    content = latex(report())
    assert r"ERM & 50.0 $\pm$ 0.0 & 50.0 $\pm$ 0.0 & 50.0 \\" in content
    assert r"SAM & \underline{60.0 $\pm$ 0.0} & \underline{60.0 $\pm$ 0.0} & \underline{60.0} \\" in content
    assert r"CORAL & \textbf{70.0 $\pm$ 0.0} & \textbf{70.0 $\pm$ 0.0} & \textbf{70.0} \\" in content
    alone = latex(report(rows=("ERM",)))
    assert r"ERM & 50.0 $\pm$ 0.0 &" in alone, "one row has no best"


def test_wide_tables_span_the_page() -> None:
    assert r"\begin{table*}" in latex(report(6))
    assert r"\begin{table*}" not in latex(report(3))


def test_a_fragment_is_no_document_and_a_document_has_the_same_tables() -> None:
    fragment, document = latex(report()), latex(report(), standalone=True)
    assert fragment.startswith(r"% needs \usepackage{booktabs} \usepackage{graphicx}" + "\n")
    assert "documentclass" not in fragment
    assert document.startswith(r"\documentclass{article}")
    assert fragment.partition("\n")[2].strip() in document


def test_notes_are_full_short_or_none() -> None:
    full, short, none = (latex(report(2, lost=1), kind) for kind in ("full", "short", "none"))
    assert r"{\footnotesize" not in none
    assert short.count("protocol: ") == 2
    assert "runs:" not in short
    assert "runs:" in full
    assert "ERM, SAM, CORAL lack" in full or "lacks" in full
    assert r"a\_note" in full


def test_short_notes_name_the_networks_as_text_does() -> None:
    def network(dataset: str, name: str) -> NetworkLine:
        return NetworkLine(dataset, name, False, "", (), (1200,), (2, 8, 8), "none", "fp32", ())

    whole = replace(report(3), networks=(network("D0", "Small_1"), network("D1", "Large"), network("D2", "Small_1")))
    small = r"Small\_1 \textbar{} random weights \textbar{} 1.2 k parameters"
    short = latex(whole)
    assert short.count(f"network on D0, D2: {small}") == short.count("network on D1: Large") == 2, "below both tables"
    assert "network on" not in latex(whole, "none")
    assert latex(whole, "full").count(f"network on D0: {small}") == 1
    alone = replace(report(), networks=(network("D0", "Small_1"), network("D1", "Large")))
    assert f"network on D0: {small}" in latex(alone)
    assert "Large" not in latex(alone), "of another data set"


def run_latex(folder: Path, name: str) -> str:
    """Compile a document; return its log."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / f"{name}.pdf").stat().st_size > 1000
    return done.stdout


@compiles
@pytest.mark.parametrize("notes", NOTES)
def test_it_compiles_inside_a_conference_paper_of_two_columns(notes: Notes, tmp_path: Path) -> None:
    section = Section("Published beside measured", (("Algorithm", "measured"), ("ERM", "85.5 +/- 0.2")), ("a line",))
    whole = replace(report(6, lost=1), sections=(section,))
    (tmp_path / "tables.tex").write_text(latex(whole, notes))
    (tmp_path / "paper.tex").write_text(CONFERENCE)
    run_latex(tmp_path, "paper")
    log = run_latex(tmp_path, "paper")
    assert "Overfull" not in log
    assert not re.search("undefined|multiply defined", log)


@compiles
def test_it_compiles_whatever_the_names(tmp_path: Path) -> None:
    odd = f"{NASTY} Ünïcödé ñ ç ß ø Å ° − 中文 αβ \x07\t é"
    whole = report(1, rows=(f"{NASTY}[2]", "SAM"), lost=3, odd=odd)
    (tmp_path / "t.tex").write_text(latex(whole, "full", standalone=True))
    run_latex(tmp_path, "t")
