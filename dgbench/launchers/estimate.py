"""Estimate the hours and the disk space of a launch before it is confirmed.

Time comes from finished runs of the folder, or else from a rehearsal: some steps of one run of each data set, in a
process of its own. Both are scaled by the work of the runs that are left (`plan.cost`).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dgbench.core.run import Run
from dgbench.core.wording import format_bytes, printable
from dgbench.data.cache import CachedDataset
from dgbench.data.cache_format import CacheIndex
from dgbench.launchers.base import Slot
from dgbench.launchers.reconcile import Sweep
from dgbench.networks.start import weight_bytes
from dgbench.plan.cost import Cost, cost_of
from dgbench.store.folder import Store

STEPS = 20
"""Steps of a rehearsal that are timed."""
LONG = 500
"""Steps from which on runs are rehearsed: shorter ones are over before that would pay."""
PATIENCE = 60.0
"""Seconds that all rehearsals of a launch may take."""


@dataclass(frozen=True)
class Rehearsal:
    """The time of a few steps of a run on this machine."""

    run: Run
    seconds: float
    """Of one step."""
    size: float
    """Bytes of the model's weights."""


def estimate(sweep: Sweep, slots: Sequence[Slot], *, rehearse: bool) -> Iterator[str]:
    """Yield a line each on the runs that are left, their time and their disk space.

    Args:
        sweep: As planned.
        slots: Where its runs execute at once.
        rehearse: Whether steps may be made to learn what they take.
    """
    states = sweep.states()
    left = [run for run in sweep.plan.runs if not states[run.id].settled]
    done = len(sweep.plan.runs) - len(left)
    kinds = {kind: sum(run.kind == kind for run in left) for kind in ("train", "merge", "adapt", "analyze")}
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    yield f"runs: {len(left):,} of {len(sweep.plan.runs):,} are left" + (f" ({counts})" if left else "")
    if not left:
        return
    rehearsals: list[Rehearsal] = []
    seconds = _by_finished_runs(sweep, left) if done else None
    source = "from the times of finished runs"
    if seconds is None and rehearse and (chosen := _worth_rehearsing(left)):
        rehearsals = list(_rehearse(sweep, chosen, slots[0].threads))
        if rehearsals:
            seconds = _by_rehearsals(sweep, left, rehearsals)
            source = "from " + ", ".join(
                f"{STEPS} steps of {r.run.method.name} on {r.run.dataset} ({r.seconds:.2g} s each)" for r in rehearsals
            )
    at_once = f" with {len(slots)} runs at once" if len(slots) > 1 else ""
    told = f"about {_words(seconds / len(slots))}{at_once}, {source}" if seconds else "unknown until runs finish"
    yield f"time: {told}"
    yield f"disk: {'; '.join(_disk(sweep, rehearsals))}"


def _work(sweep: Sweep, runs: Sequence[Run]) -> float:
    """Return the work of runs, in examples passed forward and backward; to predict one is a third of that."""
    cost = cost_of(dataclasses.replace(sweep.plan, runs=tuple(runs)), sweep.catalogue)
    return cost.passes + (cost.evaluated + cost.analyzed) / 3


def _by_finished_runs(sweep: Sweep, left: Sequence[Run]) -> float | None:
    """Return the seconds that runs will take one after another, or None if no finished run says how long it took.

    A run takes as long as the mean of its method on its data set; where none has finished, by its work as the others.
    """
    took: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    timed = []
    remaining = {run.id for run in left}
    for run in (run for run in sweep.plan.runs if run.id not in remaining):
        if seconds := _recorded(sweep.store.folder(run.id).path / "times.jsonl"):
            took[run.kind, run.method.name, run.dataset].append(seconds)
            timed.append(run)
    if not timed:
        return None
    pace = sum(map(sum, took.values())) / max(1.0, _work(sweep, timed))
    known = [run for run in left if (run.kind, run.method.name, run.dataset) in took]
    others = [run for run in left if (run.kind, run.method.name, run.dataset) not in took]
    return sum(fmean(took[run.kind, run.method.name, run.dataset]) for run in known) + pace * _work(sweep, others)


def _recorded(path: Path) -> float:
    """Return the seconds that a run took over all of its attempts; 0 if that is not recorded, or no longer readable."""
    try:
        return sum(float(json.loads(line)["seconds"]) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _worth_rehearsing(left: Sequence[Run]) -> list[Run]:
    """Return a run of each data set whose steps say how long the others take, if there are many and long ones."""
    chosen: dict[str, Run] = {}
    for run in left:
        if run.kind == "train" and not run.inputs and run.setting.steps >= LONG:
            chosen.setdefault(run.dataset, run)
    return list(chosen.values()) if len(left) > 2 else []


def _rehearse(sweep: Sweep, runs: Sequence[Run], threads: int) -> Iterator[Rehearsal]:
    """Time steps of these runs, one run after another; leave out those that fail or take too long."""
    deadline = time.monotonic() + PATIENCE
    for run in runs:
        print(f"rehearsing {STEPS} steps of {run.name}", file=sys.stderr, flush=True)
        # Random weights take as long as downloaded ones, and images may have no cache yet.
        setting = dataclasses.replace(
            run.setting, pretrained=False, weights="", batch_norm="live", classifier_init="random", cache="off"
        )
        short = dataclasses.replace(run, setting=setting)
        with tempfile.TemporaryDirectory() as place:
            root = Path(place) / "sweep"
            Store(root).folder(short.id).create(short)
            job = {"root": str(root), "id": short.id, "site": sweep.site.to_json(), "steps": STEPS}
            answer = _time(job | {"threads": threads}, deadline - time.monotonic())
        if answer:
            yield Rehearsal(run, answer["seconds"], answer["bytes"])


def _time(job: dict[str, Any], seconds: float) -> dict[str, float] | None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dgbench.execute.timing"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            check=True,
        )
        answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return answer
    except (subprocess.SubprocessError, ValueError, IndexError):
        return None


def _by_rehearsals(sweep: Sweep, left: Sequence[Run], rehearsals: Sequence[Rehearsal]) -> float:
    """Scale the time of steps by the work of the runs that are left, each data set by its own rehearsal."""
    paces = {}
    for rehearsal in rehearsals:
        passes = cost_of(dataclasses.replace(sweep.plan, runs=(rehearsal.run,)), sweep.catalogue).passes
        paces[rehearsal.run.dataset] = rehearsal.seconds / (passes / rehearsal.run.setting.steps)
    usual = fmean(paces.values())
    datasets = dict.fromkeys(run.dataset for run in left)
    return sum(paces.get(name, usual) * _work(sweep, [run for run in left if run.dataset == name]) for name in datasets)


def _disk(sweep: Sweep, rehearsals: Sequence[Rehearsal]) -> Iterator[str]:
    site = sweep.site
    cost = cost_of(sweep.plan, sweep.catalogue, save_models=site.save_models, save_predictions=site.save_predictions)
    kept = cost.kept
    sizes = [file.stat().st_size for file in sweep.root.glob("runs/*/models/*.safetensors")]
    sizes = sizes or [round(rehearsal.size) for rehearsal in rehearsals]
    yield f"{kept:,} models kept" + (f", about {format_bytes(kept * fmean(sizes))}" if kept and sizes else "")
    if cost.predictions:
        yield f"kept predictions, at most {format_bytes(cost.predictions)}"
    for name, dataset in sweep.datasets():
        if sweep.declaration.setting.cache == "auto" and isinstance(dataset, CachedDataset):
            from dgbench.data.cache_build import planned  # imports OpenCV, which data in memory do without

            cache = dataset.image_cache()
            if CacheIndex.read(cache.folder) is None:
                yield f"decoded images of {printable(name)}, about {format_bytes(planned(cache, cache.paths()).size)}"
    existing = next(above for above in (sweep.root.absolute(), *sweep.root.absolute().parents) if above.exists())
    yield f"{format_bytes(shutil.disk_usage(existing).free)} free"


def kept_bytes(sweep: Sweep, cost: Cost) -> float:
    """Return the bytes of the weights of all models that stay on disk, by the size of their networks; 0 if unknown."""
    total = 0.0
    for (name, backbone), models in cost.models.items():
        facts = sweep.plan.datasets[name]
        total += models * weight_bytes(facts.network(backbone), facts.input_shape, facts.outputs)
    return total


def _words(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{max(1, second)} s"
    if minutes < 60:
        return f"{minutes} min {second} s"
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
