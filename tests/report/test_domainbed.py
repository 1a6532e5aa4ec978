"""DomainBed's folders: its tables to the digit, against a plain reimplementation of its rules on the raw records."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, SingleSource
from dgbench.report.domainbed.folder import ENVIRONMENTS, RunArgs, folder_name, write_run
from dgbench.report.domainbed.reader import is_sweep, read_sweep
from dgbench.report.render import FORMATS
from dgbench.report.render import as_domainbed as text
from dgbench.report.results import Gap, Results, Series
from dgbench.report.selectors import SELECTORS, default_selectors
from dgbench.report.tables import build
from tests.conftest import Cases

LABELS = {
    "training-domain": "training-domain validation set",
    "leave-one-domain-out": "leave-one-domain-out cross-validation",
    "oracle": "test-domain validation set (oracle)",
}


def put(root: Path, name: str, args: RunArgs, records: list[dict[str, Any]], done: bool = True) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    full = {"args": args.to_json(100, 0.2), "hparams": {}}
    (folder / "results.jsonl").write_text("".join(json.dumps({**full, **record}) + "\n" for record in records))
    if done:
        (folder / "done").write_text("done")
    return folder


def accuracies(number: int, rng: np.random.Generator, levels: int = 4) -> dict[str, float]:
    return {f"env{i}_{part}_acc": int(rng.integers(levels)) / 7 for i in range(number) for part in ("in", "out")}


def make(
    root: Path,
    rng: np.random.Generator,
    *,
    algorithms: tuple[str, ...] = ("ERM",),
    datasets: tuple[str, ...] = ("VLCS",),
    hparams: int = 2,
    trials: int = 2,
    pairs: bool = True,
    skip: float = 0.0,
    levels: int = 4,
) -> None:
    """A complete sweep; pair runs lack steps (but the last) with probability `skip`."""
    number = 0
    for dataset in datasets:
        n = len(ENVIRONMENTS[dataset])
        held_out = [(i,) for i in range(n)] + (list(combinations(range(n), 2)) if pairs else [])
        for algorithm in algorithms:
            for envs in held_out:
                for trial in range(trials):
                    for seed in range(hparams):
                        steps = [s for s in (0, 300, 600) if rng.random() >= skip or len(envs) == 1] + [900]
                        records = [{"step": step, **accuracies(n, rng, levels)} for step in steps]
                        put(root, f"run{number}", RunArgs(dataset, algorithm, envs, seed, trial), records)
                        number += 1


# An independent reading of the rules, on plain lists of records ------------------------------------------------------


def brute_force(root: Path, algorithms: list[str], datasets: list[str]) -> str:
    """What DomainBed prints for a complete sweep of more than one trial."""
    records = [json.loads(line) for file in root.glob("*/results.jsonl") for line in file.read_text().splitlines()]
    lines = [f"Total records: {len(records)}"]
    for method in LABELS:
        scores: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
        groups = defaultdict(list)
        for record in records:
            for env in record["args"]["test_envs"]:
                args = record["args"]
                groups[args["algorithm"], args["dataset"], env, args["trial_seed"]].append(record)
        for (algorithm, dataset, env, trial), group in groups.items():
            scores[algorithm, dataset, env][trial] = choose(method, group, env, len(ENVIRONMENTS[dataset]))
        for dataset in datasets:
            names = ENVIRONMENTS[dataset]
            lines += ["", f"-------- Dataset: {dataset}, model selection method: {LABELS[method]}"]
            lines.append(row(["Algorithm", *names, "Avg"], 20))
            for algorithm in algorithms:
                cells = [scores[algorithm, dataset, env] for env in range(len(names))]
                means = [100 * np.mean([cell[t] for t in sorted(cell)]) for cell in cells]
                shown = [spread([cell[t] for t in sorted(cell)]) for cell in cells]
                lines.append(row([algorithm, *shown, f"{sum(means) / len(means):.1f}"], 20))
        lines += ["", f"-------- Averages, model selection method: {LABELS[method]}"]
        lines.append(row(["Algorithm", *datasets, "Avg"], 25))
        for algorithm in algorithms:
            shown, means = [], []
            for dataset in datasets:
                cells = [scores[algorithm, dataset, env] for env in range(len(ENVIRONMENTS[dataset]))]
                by_trial = [float(np.mean([cell[t] for cell in cells])) for t in sorted(cells[0])]
                shown.append(spread(by_trial))
                means.append(100 * np.mean(by_trial))
            lines.append(row([algorithm, *shown, f"{sum(means) / len(means):.1f}"], 25))
    return "\n".join(lines) + "\n"


def choose(method: str, group: list[dict[str, Any]], env: int, n: int) -> float:
    ranked = []
    for seed in sorted({record["args"]["hparams_seed"] for record in group}):
        mine = [record for record in group if record["args"]["hparams_seed"] == seed]
        single = sorted((r for r in mine if r["args"]["test_envs"] == [env]), key=lambda r: r["step"])
        others = [i for i in range(n) if i != env]
        options = []
        for record in single[-1:] if method == "oracle" else single:
            if method == "oracle":
                value = record[f"env{env}_out_acc"]
            elif method == "training-domain":
                value = np.mean([record[f"env{i}_out_acc"] for i in others])
            else:
                held = {}
                for r in mine:
                    if len(r["args"]["test_envs"]) == 2 and r["step"] == record["step"]:
                        (other,) = set(r["args"]["test_envs"]) - {env}
                        held[other] = r[f"env{other}_in_acc"]
                if set(held) != set(others):
                    continue
                value = np.sum([held[i] for i in others]) / (n - 1)
            options.append((value, record[f"env{env}_in_acc"]))
        top = max(value for value, _ in options)
        ranked.append(next((value, score) for value, score in options if value == top))
    top = max(value for value, _ in ranked)
    return [score for value, score in ranked if value == top][-1]


def spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} +/- {100 * np.std(values / np.sqrt(len(values))):.1f}"


def row(entries: list[str], width: int) -> str:
    return "  ".join(entry.ljust(width)[:width] for entry in entries) + " "


def tables(root: Path) -> str:
    """Our text without what stands below the tables."""
    results = read_sweep(root)
    lines = text(build(results, default_selectors(results))).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# "))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    hparams=st.integers(1, 3),
    trials=st.integers(2, 3),
    two=st.booleans(),
    skip=st.sampled_from([0.0, 0.5]),
    levels=st.sampled_from([2, 4, 1000]),
)
def test_tables_are_those_of_the_rules(
    seed: int, hparams: int, trials: int, two: bool, skip: float, levels: int
) -> None:
    datasets = ["ColoredMNIST", "VLCS"] if two else ["ColoredMNIST"]
    algorithms = ["ERM", "IRM", "Alpha", "Zed"] if two else ["URM"]
    root = Path(tempfile.mkdtemp())
    try:
        make(
            root,
            np.random.default_rng(seed),
            algorithms=("Zed", "Alpha", "IRM", "ERM") if two else ("URM",),
            datasets=tuple(reversed(datasets)),
            hparams=hparams,
            trials=trials,
            skip=skip,
            levels=levels,
        )
        assert tables(root) == brute_force(root, algorithms, datasets)
    finally:
        shutil.rmtree(root)


def test_means_of_many_domains_are_summed_as_numpy_sums_them(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), datasets=("SVIRO",), pairs=False, hparams=1, trials=1, levels=10**9)
    results = read_sweep(tmp_path)
    raw = {
        p.parent.name: [json.loads(line) for line in p.read_text().splitlines()]
        for p in tmp_path.glob("*/results.jsonl")
    }
    for position in results.reported("SVIRO"):
        series = results.at("ERM", "SVIRO", (position, 0))[0]
        assert isinstance(series, Series)
        fold = results.folds[position]
        places = [ENVIRONMENTS["SVIRO"].index(view.domain) for view in fold.source_val]
        expected = [np.mean([record[f"env{i}_out_acc"] for i in places]) for record in raw[series.run]]
        assert series.mean(fold.source_val).tolist() == expected


def test_order_is_that_of_domainbed_and_unknown_names_come_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    make(tmp_path, rng, algorithms=("zeta", "VREx", "Beta", "ERM"), datasets=("PACS", "VLCS"), hparams=1, trials=1)
    results = read_sweep(tmp_path)
    assert results.rows == ("ERM", "VREx", "Beta", "zeta")
    assert list(results.datasets) == ["VLCS", "PACS"]
    assert results.ddof == 0


def test_unknown_data_sets_number_their_domains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        put(tmp_path, f"r{i}", RunArgs("Mine", "ERM", (i,), 0, 0), [{"step": 0, **accuracies(3, rng)}])
    results = read_sweep(tmp_path)
    assert [results.folds[p].held_out for p in results.reported("Mine")] == [("env0",), ("env1",), ("env2",)]


def test_unfinished_runs_are_gaps_and_never_count(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    (tmp_path / "run0" / "done").unlink()
    results = read_sweep(tmp_path)
    gap = results.at("ERM", "VLCS", (0, 0))[0]
    assert isinstance(gap, Gap)
    assert (gap.state, gap.run, gap.held_out, gap.hparams_seed, gap.trial) == ("unfinished", "run0", ("C",), 0, 0)
    outcome = SELECTORS["oracle"].choose(results, "ERM", "VLCS", 0, 0)
    assert (outcome.complete, outcome.planned, outcome.gaps) == (1, 2, (gap,))
    assert "1 run unfinished" in tables(tmp_path)


def test_what_other_rows_have_is_missing(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), algorithms=("ERM", "IRM"), datasets=("VLCS",))
    shutil.rmtree(tmp_path / "run1")
    results = read_sweep(tmp_path)
    gap = results.at("ERM", "VLCS", (0, 0))[1]
    assert isinstance(gap, Gap)
    assert (gap.state, gap.run) == ("missing", "")


def test_runs_with_one_test_domain_alone_have_no_pairs_to_miss(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    results = read_sweep(tmp_path)
    assert "no folds with two test domains" in SELECTORS["leave-one-domain-out"].unavailable(results, "VLCS")


def keep(root: Path, *held_out: str) -> None:
    """Leave only the runs with these test domains, as numbers in a row: `03` are two of them."""
    for file in list(root.glob("*/results.jsonl")):
        tested = "".join(map(str, json.loads(file.read_text().splitlines()[0])["args"]["test_envs"]))
        if tested not in held_out:
            shutil.rmtree(file.parent)


def columns(results: Results, dataset: str = "VLCS") -> list[tuple[str, ...]]:
    return [results.folds[position].held_out for position in results.reported(dataset)]


def test_domains_that_no_row_holds_out_have_no_column_and_are_told(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), algorithms=("ERM", "IRM"), datasets=("VLCS", "ColoredMNIST"), pairs=False)
    whole = build(read_sweep(tmp_path), [SELECTORS["oracle"]]).tables
    for file in list(tmp_path.glob("*/results.jsonl")):
        args = json.loads(file.read_text().splitlines()[0])["args"]
        if args["dataset"] == "VLCS" and args["test_envs"] in ([0], [2]):
            shutil.rmtree(file.parent)
    colored, vlcs, averages = build(read_sweep(tmp_path), [SELECTORS["oracle"]]).tables
    assert vlcs.columns == ("L", "V", "Avg")
    expected = [str(whole[1].rows["IRM"][place]) for place in (1, 3)]
    *cells, mean = vlcs.rows["IRM"]
    assert [str(cell) for cell in cells] == expected
    assert mean.estimate is not None
    assert mean.estimate.mean == np.mean([cell.estimate.mean for cell in cells if cell.estimate])
    assert vlcs.notes == averages.notes == ()
    assert vlcs.signature["not tested"] == "VLCS C, S (averages are over the other domains)"
    assert averages.signature["not tested"] == vlcs.signature["not tested"]
    assert "not tested" not in colored.signature
    assert vlcs.signature["runs"] == "16 counted, 0 missing, 0 failed"


def test_a_domain_that_one_row_holds_out_is_missing_of_the_others(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), algorithms=("ERM", "IRM"), pairs=False, trials=1, hparams=1)
    keep(tmp_path, "1", "3")
    record = [{"step": 0, **accuracies(4, np.random.default_rng(0))}]
    put(tmp_path, "begun", RunArgs("VLCS", "IRM", (2,), 0, 0), record, done=False)
    table, _ = build(read_sweep(tmp_path), [SELECTORS["oracle"]]).tables
    assert table.columns == ("L", "S", "V", "Avg")
    assert [str(table.rows[row][1]) for row in ("ERM", "IRM")] == ["1 run missing", "1 run unfinished"]
    assert str(table.rows["ERM"][-1]) == "1 run missing"


def test_leave_one_domain_out_of_one_domain_asks_for_its_pairs_alone(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0))
    loo = SELECTORS["leave-one-domain-out"]
    whole, *_ = build(read_sweep(tmp_path), [loo]).tables
    keep(tmp_path, "1", "01", "12", "13")
    table, _ = build(read_sweep(tmp_path), [loo]).tables
    assert table.columns == ("L", "Avg")
    assert str(table.rows["ERM"][0]) == str(whole.rows["ERM"][1])
    keep(tmp_path, "1", "12", "13")
    table, _ = build(read_sweep(tmp_path), [loo]).tables
    assert str(table.rows["ERM"][0]) == "4 runs missing"
    assert table.notes == ("ERM lacks ERM [C+L], trials 0-1 hparams 0-1: missing",)


def test_pairs_without_a_run_that_holds_out_either_domain_serve_no_selection(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0))
    keep(tmp_path, "0", "12", "23")
    results = read_sweep(tmp_path)
    assert columns(results) == [("C",)]
    assert "no folds with two test domains" in SELECTORS["leave-one-domain-out"].unavailable(results, "VLCS")
    assert results.notes == tuple(
        f"VLCS: no table reads the runs of [{pair}], as neither was held out alone" for pair in ("L+S", "S+V")
    )


def test_pairs_alone_are_columns(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0))
    keep(tmp_path, "03")
    results = read_sweep(tmp_path)
    assert columns(results) == [("C", "V")]
    assert results.notes == ()
    assert results.protocol == Explicit.name
    assert SELECTORS["leave-one-domain-out"].unavailable(results, "VLCS") == (
        "the sweep has no folds with one test domain"
    )
    table, _ = build(results, [SELECTORS["training-domain"]]).tables
    assert table.columns == ("C", "V", "C+V", "Avg")
    assert all(cell.estimate for cell in table.rows["ERM"])


def test_a_second_series_in_the_same_folder_replaces_the_first_and_is_told(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    before = tables(tmp_path).rpartition("\nleave")[0]
    file = tmp_path / "run0" / "results.jsonl"
    series = file.read_text()
    args = json.loads(series.splitlines()[0])
    wrong = {key: 1.0 if key.endswith("_acc") else value for key, value in args.items()}
    earlier = json.dumps(wrong) + "\n" + json.dumps({**wrong, "step": 1200}) + "\n"
    file.write_text(earlier + earlier + series)
    assert tables(tmp_path).startswith(before)
    results = read_sweep(tmp_path)
    one = results.at("ERM", "VLCS", (0, 0))[0]
    assert isinstance(one, Series)
    assert one.steps == (0, 300, 600, 900)
    assert not (one.values == 1.0).all(axis=1).any()
    assert any("run0: run again into the same folder" in note for note in results.notes)


def test_torn_and_garbage_lines_are_cut_off_and_told(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    before = read_sweep(tmp_path)
    with (tmp_path / "run3" / "results.jsonl").open("a") as file:
        file.write('garbage\n{"args": {"algo')
    after = read_sweep(tmp_path)
    assert after.records == before.records
    assert after.notes == ("run3: 2 torn lines, cut off",)
    assert text(build(after, [SELECTORS["oracle"]])).startswith(text(build(before, [SELECTORS["oracle"]])).rstrip("\n"))


def test_nan_losses_are_read(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    before = text(build(read_sweep(tmp_path), [SELECTORS["training-domain"]]))
    for file in tmp_path.glob("*/results.jsonl"):
        file.write_text(file.read_text().replace('"step"', '"loss": 1.0, "penalty": -Infinity, "step"'))
    assert text(build(read_sweep(tmp_path), [SELECTORS["training-domain"]])) == before
    for file in tmp_path.glob("*/results.jsonl"):
        file.write_text(file.read_text().replace('"loss": 1.0', '"loss": NaN'))
    table, averages = build(read_sweep(tmp_path), [SELECTORS["training-domain"]]).tables
    assert all(str(cell).endswith("!") for cell in (*table.rows["ERM"], *averages.rows["ERM"]))


def test_a_run_without_an_accuracy_is_damaged(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    file = tmp_path / "run0" / "results.jsonl"
    file.write_text(file.read_text().replace('"env3_out_acc"', '"other"'))
    gap = read_sweep(tmp_path).at("ERM", "VLCS", (0, 0))[0]
    assert isinstance(gap, Gap)
    assert gap.state == "damaged"
    assert "env3_out_acc" in gap.why


def test_a_run_whose_accuracy_is_no_number_is_damaged(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    file = tmp_path / "run0" / "results.jsonl"
    *before, last = file.read_text().splitlines()
    record = json.loads(last)
    file.write_text("\n".join([*before, json.dumps({**record, "env3_out_acc": float("nan")})]) + "\n")
    gap = read_sweep(tmp_path).at("ERM", "VLCS", (0, 0))[0]
    assert isinstance(gap, Gap)
    assert (gap.state, gap.why) == ("damaged", "ValueError in its records: an accuracy is no number")


def test_runs_that_fit_no_table_are_left_out_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    make(tmp_path, rng, pairs=False)
    record = [{"step": 0, **accuracies(4, rng)}]
    put(tmp_path, "every", RunArgs("VLCS", "ERM", (0, 1, 2, 3), 0, 0), record)
    put(tmp_path, "many", RunArgs("VLCS", "ERM", (0, 1, 2), 0, 0), record)
    put(tmp_path, "beyond", RunArgs("VLCS", "ERM", (7,), 0, 0), record)
    put(tmp_path, "other", RunArgs("VLCS", "ERM", (0,), 0, 5), [{"step": 0, **accuracies(3, rng)}])
    put(tmp_path, "none", RunArgs("New", "ERM", (0,), 0, 0), [{"step": 0}])
    put(tmp_path, "twice", RunArgs("VLCS", "ERM", (0,), 0, 0), record)
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "results.jsonl").write_text('{"step": 1}\n')
    results = read_sweep(tmp_path)
    assert {trial for _, trial in results.candidates["ERM", "VLCS"]} == {0, 1}
    assert results.notes == (
        "beyond: tables have no place for test domains [7] of 4, left out",
        "every: tables have no place for test domains [0, 1, 2, 3] of 4, left out",
        "none: its New has fewer than 2 domains, or another number than other runs', left out",
        "other: its VLCS has fewer than 2 domains, or another number than other runs', left out",
        "strange: no record of a run, left out",
        "twice repeats the run in run0, left out",
        "1 folders hold no results.jsonl: which runs they are for is not known",
        "VLCS: no table reads the runs of [C+L+S], as others hold out one domain alone",
    )


@pytest.mark.parametrize(
    ("case", "asked", "warnings"),
    [
        ("holdout", "holdout_fraction 0.2 or 0.5", ["holdout_fraction on PACS: 0.2 (4 runs), 0.5 (4 runs)"]),
        ("steps", "steps default or 20000", ["steps on PACS: default (4 runs), 20000 (4 runs)"]),
        (
            "hparams",
            'hparams default or {"resnet18": true}',
            ['hparams on PACS: default (4 runs), {"resnet18": true} (4'],
        ),
        (
            "task",
            "task domain_generalization or domain_adaptation, uda_holdout_fraction 0 or 0.5",
            [
                "task on PACS: domain_generalization (4 runs), domain_ad",
                "uda_holdout_fraction on PACS: 0 (4 runs), 0.5 (",
            ],
        ),
    ],
)
def test_arguments_in_which_runs_differ_are_told(cases: Cases, case: str, asked: str, warnings: list[str]) -> None:
    for table in build(read_sweep(cases("domainbed") / case), [SELECTORS["oracle"]]).tables:
        assert table.signature["beside the preset"] == asked
        told = [note for note in table.notes if note.startswith("WARNING: its runs were made with different ")]
        for warning, note in zip(warnings, told, strict=True):
            assert note.startswith(f"WARNING: its runs were made with different {warning}")
        assert str(table.rows["ERM"][-1]) == "81.5"  # as DomainBed's, which takes the better ones


def test_arguments_in_which_runs_agree_are_told_without_a_warning(tmp_path: Path, cases: Cases) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    (table, _) = build(read_sweep(tmp_path), [SELECTORS["oracle"]]).tables
    assert table.signature["beside the preset"] == "steps 100"
    assert table.notes == ()
    (table, _) = build(read_sweep(cases("domainbed") / "single_source"), [SELECTORS["oracle"]]).tables
    assert "beside the preset" not in table.signature


def test_a_run_that_is_repeated_otherwise_is_warned_of(tmp_path: Path) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    for file in tmp_path.glob("run0/results.jsonl"):
        other = file.read_text().replace('"holdout_fraction": 0.2', '"holdout_fraction": 0.4').replace(": 100", ": 50")
        put(tmp_path, "twice", RunArgs("VLCS", "ERM", (0,), 0, 0), [])
        (tmp_path / "twice" / "results.jsonl").write_text(other)
    results = read_sweep(tmp_path)
    assert results.notes == ("WARNING: twice repeats the run in run0 with another holdout_fraction, steps, left out",)
    assert build(results, [SELECTORS["oracle"]]).warnings == (results.notes[0].removeprefix("WARNING: "),)


def test_runs_with_one_training_domain_are_tabled_as_our_own_are(cases: Cases) -> None:
    results = read_sweep(cases("domainbed") / "single_source")
    assert results.protocol == SingleSource.name
    assert results.folds == tuple(SingleSource().folds(ENVIRONMENTS["PACS"]))
    assert results.notes == ()
    table, _ = build(results, [SELECTORS["training-domain"]]).tables
    assert table.columns[:5] == ("from A: C", "from A: P", "from A: S", "from A", "from C: A")
    assert [str(cell) for cell in table.rows["ERM"][:4]] == ["71.0", "72.0", "73.0", "72.0"]
    assert str(table.rows["ERM"][-1]) == "71.5"


def test_the_finished_one_of_two_folders_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    make(tmp_path, rng, pairs=False)
    before = read_sweep(tmp_path)
    for name in ("a", "z"):
        put(tmp_path, name, RunArgs("VLCS", "ERM", (0,), 0, 0), [{"step": 0, **accuracies(4, rng)}], done=False)
    found = read_sweep(tmp_path).at("ERM", "VLCS", (0, 0))[0]
    assert isinstance(found, Series)
    assert found.run == "run0"
    assert before.records == read_sweep(tmp_path).records


def test_a_folder_without_readable_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert not is_sweep(tmp_path)
    (tmp_path / "x" / "results.jsonl").write_text("nothing\n")
    assert is_sweep(tmp_path)
    with pytest.raises(UserError, match="holds no run that can be read"):
        read_sweep(tmp_path)


def test_folder_names_and_seeds_are_domainbeds() -> None:
    """Two runs of the sweep that DomainBed ships with its tests."""
    args = RunArgs("VLCS", "ERM", (3,), 1, 1).to_json(1001, 0.2)
    assert args["seed"] == 1726329315
    shipped = {**args, "data_dir": "/checkpoint/dlp/datasets_new"}
    assert folder_name(shipped) == "cf42c3176baf91b96bb7dd0ff3c686cc"
    pair = {**RunArgs("VLCS", "ERM", (1, 2), 1, 0).to_json(1001, 0.2), "data_dir": "/checkpoint/dlp/datasets_new"}
    assert folder_name(pair) == "0657090f9a83ff76efe083a104fde93a"


def test_what_is_written_is_what_domainbed_reads(tmp_path: Path) -> None:
    args = RunArgs("VLCS", "ERM", (3,), 1, 1).to_json(1001, 0.2)
    folder = write_run(tmp_path, args, {"lr": 0.1}, [{"step": 0, "env0_in_acc": 0.5}, {"step": 1, "env0_in_acc": 0.25}])
    assert folder.name == folder_name(args)
    assert (folder / "done").read_text() == "done"
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines)
    first = json.loads(lines[0])
    assert first["args"]["test_envs"] == [3]
    assert first["args"]["output_dir"] == str(folder)
    assert (first["hparams"], first["step"], first["env0_in_acc"]) == ({"lr": 0.1}, 0, 0.5)


SHIPPED = """
Total records: 200

-------- Dataset: VLCS, model selection method: training-domain validation set
Algorithm             C                     L                     S                     V                     Avg
ERM                   98.0 +/- 0.2          64.2 +/- 0.8          74.1 +/- 0.4          77.1 +/- 0.2          78.3

-------- Averages, model selection method: training-domain validation set
Algorithm                  VLCS                       Avg
ERM                        78.3 +/- 0.0               78.3

-------- Dataset: VLCS, model selection method: leave-one-domain-out cross-validation
Algorithm             C                     L                     S                     V                     Avg
ERM                   96.9 +/- 1.0          64.4 +/- 0.9          70.5 +/- 0.5          76.7 +/- 0.1          77.1

-------- Averages, model selection method: leave-one-domain-out cross-validation
Algorithm                  VLCS                       Avg
ERM                        77.1 +/- 0.1               77.1

-------- Dataset: VLCS, model selection method: test-domain validation set (oracle)
Algorithm             C                     L                     S                     V                     Avg
ERM                   96.9 +/- 1.0          65.9 +/- 0.5          71.6 +/- 1.3          76.9 +/- 0.3          77.8

-------- Averages, model selection method: test-domain validation set (oracle)
Algorithm                  VLCS                       Avg
ERM                        77.8 +/- 0.3               77.8
"""
"""Its test_sweep_results.txt, without the blanks at the ends of lines."""


def test_the_sweep_that_domainbed_ships_gives_its_text(tmp_path: Path) -> None:
    sizes = {"in": (1132, 2125, 2626, 2701), "out": (283, 531, 656, 675)}

    def exact(digits: str, domain: int, part: str) -> float:
        size = sizes[part][domain]
        return round(int(digits) / 10000 * size) / size

    fixture = Path(__file__).with_name("domainbed_vlcs.txt")
    for line in fixture.read_text().splitlines():
        if line.startswith("#"):
            continue
        head, *parts = line.split(" | ")
        trial, envs, seed = head.split()
        tested = tuple(map(int, envs))
        records = []
        for step, part in zip((0, 300, 600, 900, 1000), parts, strict=True):
            values = part.split()
            outs = [exact(v, i, "out") for i, v in enumerate(values[:4])] if len(tested) == 1 else [0.0] * 4
            ins = {env: exact(v, env, "in") for env, v in zip(tested, values[-len(tested) :], strict=True)}
            keys = {f"env{i}_out_acc": v for i, v in enumerate(outs)} | {f"env{i}_in_acc": v for i, v in ins.items()}
            records.append({"step": step, **keys})
        put(tmp_path, line[:6].replace(" ", "-"), RunArgs("VLCS", "ERM", tested, int(seed), int(trial)), records)
    found = tables(tmp_path).splitlines()
    assert [line.rstrip() for line in found] == SHIPPED.strip("\n").splitlines()
    assert {len(line) for line in found if line.startswith(("ERM", "Algorithm"))} == {6 * 22 - 1, 3 * 27 - 1}


@pytest.mark.parametrize("form", FORMATS)
def test_folders_of_any_name_are_read_and_shown(tmp_path: Path, form: str) -> None:
    make(tmp_path, np.random.default_rng(0), pairs=False)
    odd = tmp_path / os.fsdecode(b"caf\xe9\x1b[5m\n")
    (tmp_path / "run0").rename(odd)
    with (odd / "results.jsonl").open("a") as file:
        file.write("torn")
    results = read_sweep(tmp_path)
    assert results.notes == (r"caf\xe9\x1b[5m\n: 1 torn lines, cut off",)
    shown = FORMATS[form](build(results, [SELECTORS["oracle"]]))
    assert "ERM" in shown.encode().decode()
    assert "\x1b" not in shown
