"""Published numbers: the files agree with what their sources print, and stand beside like tables only."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.setting import setting
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.domainbed.reader import read_sweep
from dgbench.report.published import (
    FAMILIES,
    FOLDER,
    Block,
    Printed,
    beside,
    read_blocks,
    read_families,
    reasons_against,
)
from dgbench.report.results import Candidate, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import Report, build
from tests.support.places import ROOT

BLOCKS = read_blocks()
OF_DOMAINBED = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")


def test_the_files_lie_in_the_package_and_show_in_results() -> None:
    assert FOLDER == ROOT / "dgbench" / "published"
    assert (ROOT / "results" / "published").is_symlink()
    assert (ROOT / "results" / "published").resolve() == FOLDER


def test_every_block_says_where_it_is_from_and_how_it_was_made() -> None:
    assert len(BLOCKS) == 28
    assert len({block.name for block in BLOCKS}) == len(BLOCKS)
    assert {path.name for path in FOLDER.iterdir()} >= {FAMILIES, "domainbed-2020.toml", "swad.toml"}
    for block in BLOCKS:
        assert block.source
        assert block.reading
        assert block.protocol
        assert block.network
        assert block.rows or block.statements
    assert sum(len(block.rows) for block in BLOCKS) == 155


def test_printed_averages_are_those_of_the_columns() -> None:
    checked = 0
    lines = [(block.name, name, row) for block in BLOCKS for name, row in block.rows.items()]
    lines += [("families", name, row) for name, row in read_families().items()]
    for block, name, row in lines:
        if row.average is not None and None not in row.cells:
            mean = sum(cell.mean for cell in row.cells if cell) / len(row.cells)
            # 0.1: the columns are rounded, each by up to 0.05, and the average is too.
            assert (abs(mean - row.average) > 0.1 + 1e-9) == row.misprinted, (block, name, mean, row.average)
            checked += 1
    assert checked > 120


def test_a_block_is_built_on_the_erm_that_it_names() -> None:
    families = read_families()
    assert len(families) == 7
    built = [block for block in BLOCKS if block.family]
    assert {block.family for block in built} == set(families)
    for block in built:
        own = next(row for row in block.rows.values() if row.row == "ERM")
        for name, cell in zip(OF_DOMAINBED, families[block.family].cells, strict=True):
            mine = own.cells[block.columns.index(name)]
            assert mine
            assert cell
            assert mine.mean == cell.mean, (block.name, name)


@pytest.mark.parametrize(
    ("block", "row", "column", "number"),
    [
        ("DomainBed 2020, training-domain", "ERM", "TerraIncognita", Printed(46.1, 1.8)),
        ("DomainBed 2020, leave-one-domain-out", "SagNet", "RotatedMNIST", Printed(94.0, 3.0)),
        ("DomainBed 2020, oracle", "MMD", "DomainNet", Printed(23.5, 9.4)),
        ("SWAD", "SWAD", "PACS", Printed(88.1, 0.1)),
        ("RIDG, WILDS", "ERM", "FMoW acc_worst_region", Printed(32.3, 1.25)),
        ("RIDG, WILDS", "CGD", "RxRx1 acc_avg", None),
        ("OoD-Bench+", "correlation shift", "ColoredMNIST", Printed(0.43, None)),
    ],
)
def test_single_numbers(block: str, row: str, column: str, number: Printed | None) -> None:
    (found,) = (found for found in BLOCKS if found.name == block)
    assert found.rows[row].cells[found.columns.index(column)] == number


def test_rows_that_stand_for_ours_have_our_names(catalogue: Any) -> None:
    from dgbench.catalogue.rows import parse_row

    for block in BLOCKS:
        for row in block.rows.values():
            if row.row:
                parse_row(row.row, catalogue)
        for name in {*block.metrics()} - {"CIFAR-100", "Cars", "Flowers", "CelebA", "NICO"}:
            assert name in catalogue.entries


def test_wrong_files_are_refused_with_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / FAMILIES).write_text('baseline = "ERM"\n[families]\na = { cells = "1.0" }\n')
    (tmp_path / "x.toml").write_text(
        'source = "s"\nreading = "r"\n'
        '[[block]]\nname = "b"\nprotocol = "p"\nnetwork = "n"\ncolumns = ["PACS"]\nselector = "orakle"\nfamily = "b"\n'
        '[block.rows]\nERM = { cells = "85.5 1.0" }\n'
        '[[block]]\nname = "c"\nprotocol = "p"\nnetwork = "n"\ncolumns = ["PACS"]\n'
        '[block.rows]\nERM = { cells = "85,5" }\nSAM = { cells = 85.5 }\n'
        '[[block]]\nname = "d"\nprotocol = "p"\nnetwork = "n"\ncolumns = ["PACS"]\nsteps = "many"\n'
    )
    (tmp_path / "y.toml").write_text("source = ")
    with pytest.raises(UserError) as caught:
        read_blocks(tmp_path)
    first, second, third, fourth, fifth, sixth, last = caught.value.problems
    assert first == "x.toml, block 1: unknown selector 'orakle': did you mean 'oracle'?"
    assert second == "x.toml, block 1: unknown family 'b': there are a"
    assert third == "x.toml, block 1, ERM: 2 numbers for 1 columns"
    assert fourth == "x.toml, block 2, ERM: '85,5' is no number: 85.5, 85.5±0.2 and - are"
    assert fifth == "x.toml, block 2, SAM: cells is a text of numbers, not 85.5"
    assert sixth.startswith("x.toml, block 3: steps: 'many' is ")
    assert "y.toml can't be read" in last


DOMAINS = ("a", "b")


def measured(
    rows: dict[str, list[float]], selector: str = "training-domain", only: tuple[str, ...] = (), **how: Any
) -> tuple[Report, Results]:
    """Rows with one accuracy a trial, the same on both domains of PACS; DomainBed's setting but for `how`."""
    folds = tuple(LeaveOneDomainOut(pairs=False, only=only).folds(DOMAINS))
    candidates: dict[tuple[str, str], dict[tuple[int, int], dict[int, Candidate]]] = {}
    for row, values in rows.items():
        spots = candidates.setdefault((row, "PACS"), {})
        for position, fold in enumerate(folds):
            for trial, value in enumerate(values):
                table = np.full((1, len(fold.evaluated)), value)
                spots[position, trial] = {0: Series(f"{row}{position}{trial}", (0,), fold.evaluated, table)}
    own = setting("domainbed-2020", **{"backbone": "resnet50.tv_in1k", "steps": 5001, "checkpoint_freq": 300, **how})
    results = Results(
        "leave-one-domain-out",
        "domainbed-2020",
        1,
        tuple(rows),
        {"PACS": tuple(range(len(folds)))},
        folds,
        candidates,
        settings={"PACS": own},
    )
    return build(results, [SELECTORS[selector]]), results


def why_not(block: str, report: Report, results: Results) -> list[str]:
    (found,) = (found for found in BLOCKS if found.name == block)
    return list(reasons_against(found, results, report.tables[0]))


def test_a_like_table_is_set_beside_with_differences_and_gains() -> None:
    report, results = measured({"ERM": [0.84, 0.86], "ERM+SWAD": [0.87, 0.9], "KNN": [0.5, 0.5]})
    sections = {section.title.rpartition(", ")[2]: section for section in beside(report, results, BLOCKS)}
    (own,) = (s for s in beside(report, results, BLOCKS) if s.title.endswith("validation set, SWAD"))
    erm, swad = own.content["lines"]
    assert erm["row"] == "ERM"
    assert swad["row"] == "ERM+SWAD"
    assert swad["published"] == Printed(88.1, 0.1)
    assert swad["measured"].mean == pytest.approx(88.5)
    assert swad["difference"].mean == pytest.approx(0.4)
    assert swad["difference"].error == pytest.approx(math.hypot(1.5, 0.1))
    assert erm["difference"].error is None, "this ERM is printed without an error"
    assert swad["gain"].mean == pytest.approx(3.5)
    assert swad["gain"].error == pytest.approx(0.5), "of trials, which pair: 3 and 4"
    assert swad["published_gain"] == pytest.approx(3.9)
    assert own.cells[2] == ("ERM+SWAD", "88.5 +/- 1.5", "88.1 +/- 0.1", "+0.4 +/- 1.5", "+3.5 +/- 0.5", "+3.9")
    assert "its ERM: that of swad" in own.below[1]
    assert "SAGM" in sections
    last = beside(report, results, BLOCKS)[-1]
    assert last.title == "Published, and left out"
    assert not last.cells
    told = "\n".join(last.below)
    assert "EoA, RegNetY-16GF SWAG: its network is RegNetY-16GF pretrained as SWAG, here it is resnet50.tv_in1k" in told
    assert "RIDG, ResNet-18: its network is resnet18, here it is resnet50.tv_in1k" in told
    assert "DomainBed 2020, oracle: it selects by oracle, here by training-domain" in told
    assert "TRAM" not in told
    assert f"{sum('PACS' not in block.metrics() for block in BLOCKS)} tables are of other data sets" in last.below


def test_data_sets_without_published_numbers_are_one_line() -> None:
    report, results = measured({"ERM": [0.8, 0.8]})
    tables = tuple(dataclasses.replace(table, dataset=table.dataset and "Digits") for table in report.tables)
    (only,) = beside(dataclasses.replace(report, tables=tables), results, BLOCKS)
    total = f"0 of {len(BLOCKS)} published tables are shown"
    assert only.below == (total, "there are no published numbers on Digits")


def test_what_is_made_otherwise_is_left_out() -> None:
    rows = {"ERM": [0.8, 0.8]}
    assert why_not("SWAD", *measured(rows)) == []
    assert why_not("SWAD", *measured(rows, selector="oracle")) == ["it selects by training-domain, here by oracle"]
    assert why_not("SWAD", *measured(rows, only=("a",))) == ["it tests all domains of PACS, here b isn't tested"]
    assert why_not("SWAD", *measured(rows, steps=300)) == ["it trains at least 5,000 steps, here 300"]
    assert why_not("SWAD", *measured(rows, steps=15001)) == []
    first = "DomainBed 2020, training-domain"
    assert why_not(first, *measured(rows, steps=15001)) == ["it trains 5,001 steps, here 15,001"]
    head = "resnet50.ram_in1k"
    assert why_not(first, *measured(rows, backbone=head)) == [f"its network is resnet50.tv_in1k, here it is {head}"]
    assert why_not("SWAD", *measured(rows, backbone=head)) == [], "this source names no weights"
    assert why_not("SWAD", *measured(rows, pretrained=False)) == [
        "it starts from the network's published weights, which isn't so here"
    ]
    assert why_not("SWAD", *measured(rows, image_size=96)) == ["its images are 224 pixels wide, here 96"]
    probe = "DiWA, linear probing first"
    assert why_not(probe, *measured(rows)) == ["its classifier_init is linear_probe, here it is random"]
    assert why_not(probe, *measured(rows, classifier_init="linear_probe")) == []
    assert why_not("WAKD, ResNet-18 student", *measured(rows))[0].startswith(
        "it selects by what its source does not say, here by"
    )


def test_without_a_recorded_network_nothing_is_alike() -> None:
    report, results = measured({"ERM": [0.8]})
    results = replace(results, settings={})
    assert why_not("SWAD", report, results) == ["which network was trained isn't recorded here"]


@pytest.mark.parametrize(
    ("hparams", "reason"),
    [
        ({"resnet18": False}, ""),
        ({"resnet18": False, "resnet50_augmix": True}, "here it is resnet50.ram_in1k"),
        ({"resnet18": True}, "here it is resnet18.tv_in1k"),
        ({}, "which network was trained isn't recorded here"),
    ],
)
def test_domainbeds_own_folders_are_compared_by_their_hyperparameters(
    tmp_path: Path, hparams: dict[str, Any], reason: str
) -> None:
    for env in range(4):
        record = {f"env{i}_{part}_acc": 0.8 for i in range(4) for part in ("in", "out")}
        args = RunArgs("VLCS", "ERM", (env,), 0, 0).to_json(5001, 0.2)
        write_run(tmp_path, args, hparams, [{"step": step, **record} for step in (0, 5000)])
    results = read_sweep(tmp_path)
    found = why_not("DomainBed 2020, training-domain", build(results, [SELECTORS["training-domain"]]), results)
    assert bool(found) == bool(reason)
    assert all(why.endswith(reason) for why in found)


def test_a_row_without_a_number_gets_no_line() -> None:
    report, results = measured({"KNN": [0.5, 0.5]})
    (only,) = beside(report, results, [block for block in BLOCKS if block.name == "SWAD"])
    assert only.below[0] == "0 of 1 published tables are shown"
    assert only.below[1] == "SWAD: none of its rows has a number here (ERM (reproduced), MixStyle, SWAD)"


def test_one_trial_has_gains_without_an_error() -> None:
    report, results = measured({"ERM": [0.8], "SAM": [0.9]})
    (own, _) = beside(report, results, [block for block in BLOCKS if block.name == "SAGM"])
    assert own.cells[2] == ("SAM", "90.0", "85.8 +/- 0.2", "+4.2", "+10.0", "+0.3")
    assert isinstance(own.content["block"], Block)
