"""Read the state of a sweep from its folder, the only place where any state is kept.

* `sweep.json`: the request, see `plan.declaration`.
* `plan.json`: the runs that answer it, see `plan.planfile`.
* `search.json`: which of them compete, where the worse draws are dropped on the way, see `store.search`.
* `verified.json`: the runs whose files were compared with their hashes, see `store.verified`.
* `cancel`: marker of the last request to stop, if there was one.
* `runs/<id>/`: a folder for each run that was begun, see `store.run_folder`.

There is no server and no database. Launchers, workers and `status` on any number of machines look at the same folder
and come to the same conclusions, because the state of a run follows from names of files alone, each file appears whole
by rename, and a lease (`store.lease`) lets one process at a time execute a run. `launchers.reconcile` compares these
states with the plan and executes the rest; `report.reader` reads the records of runs that are `DONE` or `DROPPED`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dgbench.core.halving import Bracket, Outlook, Standing, outlooks, standings
from dgbench.core.run import is_run_id
from dgbench.store import lease as leases
from dgbench.store.files import write_atomic
from dgbench.store.holder import Looks, default_ttl
from dgbench.store.lease import cancel_mark
from dgbench.store.notes import was_restarted
from dgbench.store.process import file_clock
from dgbench.store.run_folder import CANCEL, DONE, RUN, RUNS, RunFolder
from dgbench.store.search import Search
from dgbench.store.state import State
from dgbench.store.verified import Verified


@dataclass(frozen=True)
class Survey:
    """Findings of one look at runs."""

    states: dict[str, State]
    """Run id -> state."""
    restarted: list[str]
    """The runs that have begun anew, because the work of their attempts was unusable."""


class Store:
    """A sweep's folder, opened by every command that reads or executes runs.

    All state is in the folder, except for the signs of life of other machines that were seen through this object.
    """

    def __init__(self, root: Path, ttl: float | None = None, brackets: Sequence[Bracket] | None = None) -> None:
        """Open the folder at `root`, which need not exist.

        Args:
            root: The sweep's folder.
            ttl: Seconds without a sign of life after which leases claimed by this process count as given up; None or 0:
                by the type of the file system.
            brackets: The runs that compete, of a sweep that was just planned; None: read them from the folder.
        """
        self.root = root
        self.search = Search(root, brackets)
        self.runs_dir = root / RUNS
        self.ttl = ttl or default_ttl(root)
        self._looks = Looks()

    def folder(self, id: str) -> RunFolder:
        """Return the folder of a run, which need not exist."""
        return RunFolder(self.root, id, self.ttl, self._looks)

    def ids(self) -> list[str]:
        """Return the ids of all runs that were begun, sorted.

        Links are left out: what they lead to lies outside the sweep, and could be removed by commands that tidy up.
        """
        return [entry.name for entry in self._entries() if _is_run_folder(entry)]

    def unplanned(self, planned: Collection[str]) -> list[str]:
        """Return the ids of the runs in the folder that are not among the planned ones, sorted."""
        others = (entry for entry in self._entries() if entry.name not in planned)
        return [entry.name for entry in others if _is_run_folder(entry) and _holds_run(entry)]

    def unknown_entries(self) -> list[Path]:
        """Return entries of `runs/` that are no run: other names, files, links, folders with other content."""
        return [Path(entry.path) for entry in self._entries() if not (_is_run_folder(entry) and _holds_run(entry))]

    def _entries(self) -> list[os.DirEntry[str]]:
        if not self.runs_dir.is_dir():
            return []
        with os.scandir(self.runs_dir) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def states(self, ids: Iterable[str], retries: int, *, thorough: bool = False) -> dict[str, State]:
        """Return the state of each run.

        The file server's time is read once for all runs, and only if a lease on another machine must be dated.

        Args:
            ids: The runs.
            retries: How many times a run may fail and be tried again.
            thorough: Also read the files of runs that are not under way, except for those that were verified before and
                didn't change (`store.verified`); some may then be `DAMAGED`.
        """
        return self.survey(ids, retries, thorough=thorough).states

    def survey(self, ids: Iterable[str], retries: int, *, thorough: bool = False) -> Survey:
        """Return the states of runs and which runs have begun anew, from one listing of each folder; see `states`."""
        now = lru_cache(maxsize=1)(self.now)
        folders = {id: self.folder(id) for id in ids}
        states, restarted = {}, []
        for id, folder in folders.items():
            names = folder.names()
            states[id] = folder.state(retries, now, names)
            if was_restarted(names):
                restarted.append(id)
        open_ = [id for id, state in states.items() if state not in (State.DONE, State.RUNNING)]
        ranked = self.standings(open_)
        for id, standing in ((id, ranked[id]) for id in open_ if id in ranked):
            if standing.dropped or standing.awaited:
                states[id] = State.DROPPED if standing.dropped else State.PAUSED
        if thorough:
            rungs = {id: ranked[id].until for id, state in states.items() if state is State.DROPPED}
            begun = [
                (folders[id], state) for id, state in states.items() if state not in (State.RUNNING, State.MISSING)
            ]
            for id in self._damaged(begun, rungs, now):
                states[id] = State.DAMAGED
        return Survey(states, restarted)

    def _damaged(
        self, idle: Iterable[tuple[RunFolder, State]], rungs: Mapping[str, int | None], now: Callable[[], float]
    ) -> list[str]:
        """List those of some runs, none of them under way, that are damaged."""
        verified, found = Verified(self.root), []
        for folder, state in idle:
            # The stamp is older than the look at the files: one that changes in between is read again.
            stamp, date = folder.stamp(rungs.get(folder.id)) if state.settled else ("", 0.0)
            if verified.holds(folder.id, stamp):
                continue
            if folder.damage(rungs.get(folder.id)):
                found.append(folder.id)
            elif stamp:
                verified.add(folder.id, stamp, now() - date)
        verified.save()
        return found

    def now(self) -> float:
        """Return the file server's time in seconds; this machine's where nothing can be written."""
        try:
            return file_clock(self.root)
        except OSError:
            return time.time()

    def state(self, id: str, retries: int) -> State:
        """Return the state of one run; see `states`."""
        return self.states([id], retries)[id]

    def standings(self, ids: Iterable[str]) -> dict[str, Standing]:
        """Return how far runs may train by the scores so far, of `ids` and of all that compete with them.

        Runs that nothing limits are left out, and so are those that stand on others, until these are dropped.
        """
        found: dict[str, Standing] = {}
        for bracket in self.search.of(ids):
            own = standings(bracket, {run: self.folder(run).scores() for run in bracket.runs})
            dropped = {run: standing for run, standing in own.items() if standing.dropped}
            found |= own
            found |= {id: standing for run, standing in dropped.items() for id in bracket.readers.get(run, ())}
        return found

    def standing(self, id: str) -> Standing:
        """Return how far a run may train by the scores so far."""
        return self.standings([id]).get(id, Standing(None))

    def outlooks(self, ids: Iterable[str]) -> dict[str, Outlook]:
        """Return how much of their work runs have made and will have made by the scores so far; see `standings`.

        Runs on which no search decides are left out.
        """
        found: dict[str, Outlook] = {}
        for bracket in self.search.of(ids):
            found |= outlooks(bracket, {run: self.folder(run).scores() for run in bracket.runs})
        return found

    def damage(self, id: str) -> str:
        """Return the first damage found in the files of a run that is not under way; empty if there is none."""
        return self.folder(id).damage(self.standing(id).until)

    def dropped(self) -> dict[str, int]:
        """Return id -> the rung at which the search dropped it, of runs without `done`; also of those that read one."""
        ranked = self.standings(run for bracket in self.search.brackets for run in bracket.runs)
        return {
            id: standing.until
            for id, standing in ranked.items()
            if standing.dropped and standing.until is not None and not (self.folder(id).path / DONE).exists()
        }

    def request_cancel(self) -> None:
        """Make all processes that execute runs of this sweep, on any machine, save their state and stop."""
        write_atomic(self.root / CANCEL, uuid.uuid4().hex.encode())

    def cancel_mark(self) -> tuple[int, bytes] | None:
        """Return the identity of the last `request_cancel`: a launch is canceled if this changes while it works."""
        return cancel_mark(self.root / CANCEL)


def _is_run_folder(entry: os.DirEntry[str]) -> bool:
    return is_run_id(entry.name) and entry.is_dir(follow_symlinks=False)


def _holds_run(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder holds a run, or no more than a run leaves that was killed right after its first claim."""
    names = os.listdir(entry.path)
    return RUN in names or all(leases.is_lease(name) for name in names)
