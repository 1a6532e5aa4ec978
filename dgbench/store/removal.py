"""Remove results of runs, so that they are executed anew or leave the sweep.

Each function takes the run's lease, and confirms it before each removal: a process that was suspended for longer than
the lease allows must not remove what another has made meanwhile. Where another process executes the run, nothing is
removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dgbench.core.run import Run
from dgbench.store import lease as leases
from dgbench.store import notes
from dgbench.store.files import remove_path
from dgbench.store.lease import Lease, LeaseLost
from dgbench.store.run_folder import DONE, RUN, RunFolder


def reset(folder: RunFolder, *, done_too: bool = False) -> bool:
    """Remove all but `run.json` and the leases, so that the run can be executed anew.

    Args:
        folder: The run's.
        done_too: Remove the results of a run that is done, too.

    Returns:
        False, with nothing removed, if another process executes the run, or if it is done.

    Raises:
        UserError: The folder is a link, or lies behind one.
    """
    lease = folder.claim_for_removal(done_too=done_too)
    return lease is not None and _clear(folder, lease, lease.release)


def begin_anew(folder: RunFolder, why: str) -> None:
    """Remove the results of a run even if it is done, as `reset` does, and record why."""
    if reset(folder, done_too=True):
        folder.record_restart(why)


def repair(folder: RunFolder, run: Run) -> bool:
    """Remove everything of a damaged run but its leases, and write `run.json` anew; return as `reset` does."""
    lease = folder.claim_for_removal(done_too=True)

    def write_anew() -> None:
        remove_path(folder.path / RUN)
        folder.create(run)
        assert lease
        lease.release()

    return lease is not None and _clear(folder, lease, write_anew)


def remove(folder: RunFolder) -> bool:
    """Remove the folder of a run even if it is done; return False if another process executes the run."""
    lease = folder.claim_for_removal(done_too=True)
    # Leases go last: while any file is left, no other process can claim the run and begin in the middle.
    # `rmtree` removes links themselves and not their targets.
    return lease is not None and _clear(folder, lease, lambda: shutil.rmtree(folder.path))


def remove_models(folder: RunFolder) -> bool:
    """Remove the weights of a run that is done or dropped; return False if there are none, or it is neither."""
    lease = folder.claim_for_removal(done_too=True)
    if not lease:
        return False
    try:
        # By the states that were read before, a run without `done` is one that the search dropped.
        found = ((folder.path / DONE).exists() or bool(folder.scores())) and folder.has_models()
        if found:
            lease.confirm()
            shutil.rmtree(folder.models)
        return found
    finally:
        lease.release()


def _clear(folder: RunFolder, lease: Lease, then: Callable[[], object]) -> bool:
    """Remove all but `run.json` and the leases, then call `then`; stop and return False if the lease is lost."""
    with os.scandir(folder.path) as entries:
        found = [entry for entry in entries if entry.name != RUN and not leases.is_lease(entry.name)]
    try:
        # `done` and its like go first: they vouch for the others, and this process may be killed after any removal.
        for entry in sorted(found, key=lambda entry: not (entry.name == DONE or bool(notes.rungs([entry.name])))):
            lease.confirm()
            remove_path(Path(entry))
        lease.confirm()
        then()
    except LeaseLost:
        return False
    return True
