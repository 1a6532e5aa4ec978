"""Rehearse runs of a sweep before it starts: make a few steps of each in processes that keep nothing.

The processes are forked from a server like that of the sweep, as many at once as it has slots, because runs that share
cores, memory and disk slow each other down.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import cycle, islice
from math import prod
from multiprocessing.connection import wait
from pathlib import Path

from dgbench.core.run import Run
from dgbench.core.wording import group_values, printable
from dgbench.data.cache import CachedDataset
from dgbench.data.cache_format import CacheIndex
from dgbench.launchers.base import Slot
from dgbench.launchers.forkserver import ForkServer, ForkServerDied
from dgbench.launchers.pace import Key, Rehearsal, key_of
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.work import Work
from dgbench.store.files import read_object
from dgbench.store.folder import Store

PATIENCE = 60.0
"""Seconds that all rehearsals of a launch may take."""
SHARE = 0.05
"""Share of the time of a sweep that its rehearsals may take."""
EACH = 0.5
"""Seconds that the steps of a rehearsed run may take, and again its evaluation."""
WORTHWHILE = 30.0
"""Seconds that a sweep must take, by a first guess, to be rehearsed at all."""


def guess(sweep: Sweep, runs: Sequence[tuple[Run, Work]], slots: int) -> float:
    """Guess the seconds of runs before anything is measured, within a factor of ten: is a rehearsal worth its time?

    Args:
        sweep: As planned.
        runs: Runs with their work.
        slots: Number of runs at once.
    """
    total = 0.0
    for run, work in runs:
        # A core trains a small convolutional network on some three million numbers of inputs a second.
        total += 0.2 + 0.002 * work.steps + work.all * prod(sweep.plan.datasets[run.dataset].input_shape) / 3e6
    return total / slots


def choose(runs: Sequence[tuple[Run, Work]]) -> list[tuple[Run, Work]]:
    """Return a run of each data set, network and method to rehearse, those first that stand for the most work.

    Before all others comes one of each data set and network, a method of middling work, to stand for those that are
    not reached. Left out are runs that read others, as students do, and those on stored features, which the first of
    them would have to compute.
    """
    of_key: dict[Key, tuple[Run, Work]] = {}
    amount: dict[Key, float] = defaultdict(float)
    for run, work in runs:
        if run.kind == "train" and work.steps and not run.inputs and not run.setting.stored_features:
            of_key.setdefault(key_of(run), (run, work))
            amount[key_of(run)] += work.all
    ordered = sorted(of_key, key=lambda key: -amount[key])
    first = {keys[len(keys) // 2] for keys in group_values((key.place, key) for key in ordered).values()}
    return [of_key[key] for key in sorted(ordered, key=lambda key: key not in first)]


def rehearse(
    sweep: Sweep,
    chosen: Sequence[tuple[Run, Work]],
    slots: Sequence[Slot],
    goes_on: Callable[[Sequence[Rehearsal], float], bool],
) -> tuple[list[Rehearsal], float]:
    """Rehearse runs, as many at once as there are slots, until all are or `goes_on` says that it is enough.

    Runs that fail or take too long are left out.

    Args:
        sweep: As planned; its folder is not touched.
        chosen: Runs with their work, the most important ones first.
        slots: Where the sweep's runs execute at once.
        goes_on: Called between rehearsals with those made, and the seconds since the first of them began.

    Returns:
        The rehearsals, and the seconds until the first of them could begin.
    """
    found: list[Rehearsal] = []
    began, ready = time.monotonic(), 0.0
    datasets = ", ".join(sorted({run.dataset for run, _ in chosen}))
    with tempfile.TemporaryDirectory(prefix="dgbench-rehearsal-") as place:
        try:
            print(f"rehearsing runs on {printable(datasets)}", file=sys.stderr, flush=True)
            with closing(sweep.fork_server("dgbench.execute.timing:rehearse", partial(_rehearsed, sweep))) as server:
                ready = time.monotonic() - began
                stage = _Stage(sweep, server, Path(place), began + PATIENCE)
                for start in range(0, len(chosen), len(slots)):
                    if start and not goes_on(found, time.monotonic() - began - ready):
                        break
                    found.extend(stage.perform(chosen[start : start + len(slots)], slots))
        except (ForkServerDied, TimeoutError) as error:
            if not found and isinstance(error, ForkServerDied):
                print(f"no rehearsal: {printable(str(error).splitlines()[-1])}", file=sys.stderr)
    return found, ready


class _Stage:
    """A server to fork rehearsals from, and the folders that they use."""

    def __init__(self, sweep: Sweep, server: ForkServer, place: Path, deadline: float) -> None:
        self.sweep, self.server, self.place, self.deadline = sweep, server, place, deadline
        self.count = 0

    def perform(self, runs: Sequence[tuple[Run, Work]], slots: Sequence[Slot]) -> Iterator[Rehearsal]:
        """Rehearse runs at once, some several times where there are more slots; yield a rehearsal of each.

        Raises:
            TimeoutError: The deadline has passed.
            ForkServerDied: The server ended.
        """
        begun: dict[str, tuple[Run, Work, Path, float]] = {}
        for (run, work), slot in zip(islice(cycle(runs), len(slots)), slots, strict=True):
            self.count += 1
            started = time.monotonic()
            short, root = _rehearsed(self.sweep, run), self.place / str(self.count)
            folder = Store(root).folder(short.id)
            folder.create(short)
            answer = root / "answer.json"
            job = self.sweep.job(run, slot) | {"root": str(root), "id": short.id}
            job |= {"answer": str(answer), "seconds": EACH}
            begun[str(self.count)] = run, work, answer, started
            env = {"CUDA_VISIBLE_DEVICES": slot.gpu or ""}
            self.server.start(str(self.count), job, env, str(folder.log_path))
        known = set[str]()
        while begun:
            if not wait([self.server.fileno()], max(0.0, self.deadline - time.monotonic())):
                raise TimeoutError
            number, _, _ = self.server.receive()
            run, work, answer, started = begun.pop(number)
            if not answer.exists() or run.id in known:  # it failed, or was there to fill a slot
                continue
            known.add(run.id)
            found = read_object(answer)
            start = max(0.0, time.monotonic() - started - found.pop("inside"))
            if run.setting.batch_norm == "frozen":
                found["norms"] = 0.0
            yield Rehearsal(run, work, start=start, size=found.pop("bytes"), **found)


def _rehearsed(sweep: Sweep, run: Run) -> Run:
    """Return a run that computes as much as another one in each step, and needs nothing that may not be there yet."""
    # Random weights take as long as downloaded ones.
    how = dataclasses.replace(run.setting, pretrained=False, weights="", batch_norm="live", classifier_init="random")
    if how.cache == "auto" and not _decoded(sweep, run):
        how = dataclasses.replace(how, cache="off")
    return dataclasses.replace(run, setting=how)


def _decoded(sweep: Sweep, run: Run) -> bool:
    """Return whether the images of a run's data set are decoded already, if it has any."""
    return all(
        CacheIndex.read(opened.image_cache().folder) is not None
        for name, opened in sweep.datasets()
        if name == run.dataset and isinstance(opened, CachedDataset)
    )
