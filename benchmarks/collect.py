"""Time and memory of `collect`, frames and `report` on 172,800 records in 9,600 runs, against lists of dictionaries.

    python benchmarks/collect.py [--runs 9600] [--folders DIR]

The reference does what DomainBed does: the json module, every record kept whole, tables by filtering lists.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.run import MODEL, ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.data.facts import DatasetFacts
from dgbench.plan.derived import PlannedPredictor
from dgbench.plan.plan import Plan
from dgbench.plan.planfile import tabulate, write_plan
from dgbench.report.domainbed.folder import RunArgs, accuracy_key
from dgbench.store.run_folder import RunFolder

DOMAINS, TRIALS, HPARAMS, STEPS = 4, 3, 20, tuple(range(0, 5100, 300))
LAST = 5000
EVALUATIONS = (*STEPS, LAST)


FRAMES = {
    "records": "len(results.records)",
    "and picks, table": "len(results.records), len(results.picks()), len(results.table())",
    "and runs": "len(results.records), len(results.picks()), len(results.table()), len(results.runs)",
}
"""What a notebook does with `results`."""


def write_domainbed(root: Path, algorithms: int) -> int:
    """A complete sweep with every key that DomainBed writes; returns the number of runs."""
    rng = np.random.default_rng(0)
    more = {"epoch": 0.5, "step_time": 0.2, "loss": 0.7, "mem_gb": 9.5}
    hparams = {"lr": 5e-5, "weight_decay": 1e-4, "batch_size": 32, "resnet_dropout": 0.5, "class_balanced": False}
    held_out = [*((i,) for i in range(DOMAINS)), *combinations(range(DOMAINS), 2)]
    number = 0
    for algorithm in ["ERM", "IRM", "GroupDRO", "Mixup", *(f"Method{i}" for i in range(algorithms))][:algorithms]:
        for envs in held_out:
            for trial in range(TRIALS):
                for seed in range(HPARAMS):
                    folder = root / f"{number:032x}"
                    folder.mkdir()
                    args = {
                        **RunArgs("PACS", algorithm, envs, seed, trial).to_json(5001, 0.2),
                        "output_dir": str(folder),
                    }
                    lines = []
                    for step, values in zip(EVALUATIONS, rng.random((len(EVALUATIONS), 2 * DOMAINS)), strict=True):
                        keys = [accuracy_key(i, part) for i in range(DOMAINS) for part in ("in", "out")]
                        accuracies = dict(zip(keys, values.tolist(), strict=True))
                        record = {"args": args, "hparams": hparams, "step": step, **more, **accuracies}
                        lines.append(json.dumps(record, sort_keys=True) + "\n")
                    (folder / "results.jsonl").write_text("".join(lines))
                    (folder / "done").write_text("done")
                    number += 1
    return number


def write_own(root: Path, algorithms: int) -> int:
    """The same sweep as dgbench's own folder; returns the number of runs."""
    rng = np.random.default_rng(0)
    domains = tuple("ACPS")
    how = setting("dgbench", steps=5001, checkpoint_freq=300)
    runs, cells = [], {}
    drawn = {"lr": 5e-5, "weight_decay": 1e-4, "batch_size": 32, "resnet_dropout": 0.5, "class_balanced": False}
    times = {"started": 0.0, "seconds": 900.0, "host": "node", "device": "NVIDIA H200", "peak_bytes": 2**33}
    for i in range(algorithms):
        mine = [
            Run("train", ResolvedEntry(f"Method{i}", drawn), "PACS", fold, seed, trial, how)
            for trial in range(TRIALS)
            for fold in LeaveOneDomainOut().folds(domains)
            for seed in range(HPARAMS)
        ]
        runs += mine
        cells[f"Method{i}", "PACS"] = tuple(PlannedPredictor(run, MODEL) for run in mine)
    facts = DatasetFacts("PACS", domains, (100,) * DOMAINS, 7, (3, 224, 224), (), 5001, 300, "f00d")
    plan = Plan(tuple(runs), tuple(row for row, _ in cells), {"PACS": facts}, cells)
    write_plan(root, tabulate(plan, how, LeaveOneDomainOut.name))
    summary = {"fingerprint": "f00d", "versions": {"dgbench": "0", "torch": "2"}, "commit": "abc"}
    with patch("os.fsync"):
        for run in runs:
            folder = RunFolder(root, run.id)
            folder.create(run)
            table = rng.random((len(EVALUATIONS), len(run.fold.evaluated))).tolist()
            folder.append_records(
                [
                    {
                        "step": step,
                        "predictor": MODEL,
                        "views": {
                            str(view): {"accuracy": value, "loss": 1.5, "n": 240}
                            for view, value in zip(run.fold.evaluated, values, strict=True)
                        },
                        "train": {"loss": 0.5},
                    }
                    for step, values in zip(EVALUATIONS, table, strict=True)
                ]
            )
            (folder.path / "times.jsonl").write_text(json.dumps(times) + "\n")
            folder.finish(summary)
    return len(runs)


def reference(root: Path) -> None:
    """All records as dictionaries, tables by filtering: what `collect` is measured against."""
    records = []
    for folder in os.listdir(root):
        with open(root / folder / "results.jsonl") as file:
            records += [json.loads(line) for line in file]
    groups: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for record in records:
        args = record["args"]
        for env in args["test_envs"]:
            groups.setdefault((args["trial_seed"], args["algorithm"], env), []).append(record)
    for method in ("training", "leave-one-out", "oracle"):
        scores: dict[tuple[str, int], list[float]] = {}
        for (_, algorithm, env), group in sorted(groups.items(), key=lambda item: str(item[0])):
            scores.setdefault((algorithm, env), []).append(_chosen(method, env, group))
        for key, values in scores.items():
            print(method, *key, f"{100 * np.mean(values):.1f} +/- {100 * np.std(values / np.sqrt(len(values))):.1f}")


def _chosen(method: str, env: int, group: list[dict[str, Any]]) -> float:
    others = [i for i in range(DOMAINS) if i != env]
    options = []
    for seed in sorted({record["args"]["hparams_seed"] for record in group}):
        mine = [record for record in group if record["args"]["hparams_seed"] == seed]
        for step in sorted({record["step"] for record in mine}) if method != "oracle" else [LAST]:
            here = [record for record in mine if record["step"] == step]
            (single,) = [record for record in here if len(record["args"]["test_envs"]) == 1]
            pairs = [record for record in here if len(record["args"]["test_envs"]) == 2]
            if method == "oracle":
                value = single[f"env{env}_out_acc"]
            elif method == "training":
                value = np.mean([single[f"env{i}_out_acc"] for i in others])
            else:
                value = np.mean([r[f"env{i}_in_acc"] for r in pairs for i in r["args"]["test_envs"] if i != env])
            options.append((value, single[f"env{env}_in_acc"]))
    return max(options)[1]


def measured(words: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time and peak MB of a command in a process of its own."""
    start = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *words], os.environ, file_actions=[_quiet()])
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"{words} failed"
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _quiet() -> tuple[int, int, str, int, int]:
    return (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)


def main() -> None:
    """Make the folders, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9600, help="a multiple of 600")
    parser.add_argument("--folders", type=Path, help="where the folders are made, and stay for the next time")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        reference(args.reference)
        return
    algorithms = args.runs // 600
    with tempfile.TemporaryDirectory() as temporary:
        theirs, ours = (Path(args.folders or temporary, name) for name in ("domainbed", "dgbench"))
        for root, write in ((theirs, write_domainbed), (ours, write_own)):
            if not root.exists():
                root.mkdir(parents=True)
                write(root, algorithms)
        print(f"{args.runs} runs, {args.runs * len(EVALUATIONS)} records, three selectors")
        slow, busy, large = measured([__file__, "--reference", str(theirs)])
        print(f"reference, json and lists of dictionaries:  {slow:6.2f} s  {busy:6.2f} s CPU {large:6.0f} MB")
        for whose, root in (("DomainBed's folder", theirs), ("dgbench's folder", ours)):
            commands = {
                "collect": ["-m", "dgbench.collect", str(root)],
                "collect --statistics": ["-m", "dgbench.collect", str(root), "--statistics"],
            }
            for name, code in FRAMES.items():
                commands[name] = ["-c", f"import dgbench; results = dgbench.load_results({str(root)!r}); {code}"]
            commands["report"] = ["-m", "dgbench.report", str(root), "-o", str(Path(temporary, "report.html"))]
            for name, words in commands.items():
                seconds, cpu, megabytes = measured(words)
                ratios = f"{busy / cpu:.1f} x less CPU time, {large / megabytes:.1f} x less memory"
                print(f"{f'{whose}, {name}:':43s} {seconds:6.2f} s  {cpu:6.2f} s CPU {megabytes:6.0f} MB   {ratios}")


if __name__ == "__main__":
    main()
