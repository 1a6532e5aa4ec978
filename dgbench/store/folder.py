"""The sweep folder is the truth: a run's state follows from the names in its folder, whoever wrote them and whoever
died meanwhile. Everything is written beside and renamed, `done` last.

<root>/sweep.json  cancel  runs/<id>/
    run.json  lease-0001 lease-0001.released ...  checkpoint.pt  models/  progress.json
    records.jsonl  times.jsonl  log.txt  failed-0001.json ...  killed-0002.json  lost-0001.json ...  done
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from dgbench.core.run import is_run_id
from dgbench.store import lease as leases
from dgbench.store.files import write_atomic
from dgbench.store.lease import TTL, cancel_mark
from dgbench.store.process import file_clock
from dgbench.store.run_folder import CANCEL, RUN, RUNS, RunFolder, State


class Store:
    """A sweep's folder. `ttl`: seconds without a sign of life after which a process elsewhere counts as gone."""

    def __init__(self, root: Path, ttl: float = TTL) -> None:
        self.root = root
        self.runs_dir = root / RUNS
        self.ttl = ttl

    def folder(self, id: str) -> RunFolder:
        """Return the folder of a run, which need not exist."""
        return RunFolder(self.root, id, self.ttl)

    def ids(self) -> list[str]:
        """List the runs that were begun, sorted: folders, and no links, whose names have the form of an id."""
        return [entry.name for entry in self._entries() if _is_run_folder(entry)]

    def unknown_entries(self) -> list[Path]:
        """List entries among the runs that are no run: other names, files, links, folders of other content."""
        return [Path(entry.path) for entry in self._entries() if not (_is_run_folder(entry) and _holds_run(entry))]

    def _entries(self) -> list[os.DirEntry[str]]:
        if not self.runs_dir.is_dir():
            return []
        with os.scandir(self.runs_dir) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def states(self, ids: Iterable[str], retries: int, *, thorough: bool = False) -> dict[str, State]:
        """Read the state of each run. Where nothing can be written, this machine's clock stands for the file server's.

        Args:
            ids: The runs.
            retries: How many times a run may fail and be tried again.
            thorough: Whether to look into the files, too, of runs that are not under way: some may be `DAMAGED`.
        """

        @lru_cache(maxsize=1)
        def now() -> float:
            try:
                return file_clock(self.root)
            except OSError:
                return time.time()

        states = {id: self.folder(id).state(retries, now) for id in ids}
        for id, state in states.items() if thorough else ():
            if state is not State.RUNNING and self.folder(id).damage():
                states[id] = State.DAMAGED
        return states

    def request_cancel(self) -> None:
        """Ask whoever executes runs of this sweep, anywhere, to save and stop."""
        write_atomic(self.root / CANCEL, uuid.uuid4().hex.encode())

    def cancel_mark(self) -> tuple[int, bytes] | None:
        """Identify the last `request_cancel`: a launch is cancelled when this changes while it works."""
        return cancel_mark(self.root / CANCEL)


def _is_run_folder(entry: os.DirEntry[str]) -> bool:
    return is_run_id(entry.name) and entry.is_dir(follow_symlinks=False)


def _holds_run(entry: os.DirEntry[str]) -> bool:
    """Decide whether a folder holds a run, or no more than one that was killed at once leaves."""
    names = os.listdir(entry.path)
    return RUN in names or all(leases.is_lease(name) for name in names)
