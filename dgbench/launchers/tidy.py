"""Remove files that a sweep's folder no longer needs, after a check of each run at that moment, never through links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgbench.plan.planfile import read_plan
from dgbench.store import removal
from dgbench.store.files import refuse_links
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State


@dataclass(frozen=True)
class Prunable:
    """The files of a sweep's folder that `prune` would remove, and those it would leave; made by `prunable`."""

    runs: tuple[RunFolder, ...]
    """Runs that the plan no longer has."""
    weights: tuple[RunFolder, ...]
    """Finished or dropped runs with weights that no unfinished run reads."""
    left: tuple[Path, ...]
    """Entries among the runs that are not runs; they are left and named."""

    def lines(self) -> Iterator[str]:
        """Yield lines that describe the planned removal."""
        for folder in self.runs:
            yield f"{folder.path}: {_size(folder.path) / 1e6:,.1f} MB, a run"
        for folder in self.weights:
            yield f"{folder.models}: {_size(folder.models) / 1e6:,.1f} MB, weights"


def prunable(root: Path) -> Prunable:
    """Find the files that a sweep's folder no longer needs; raise `UserError` if its folder of runs is a link."""
    table, store = read_plan(root), Store(root)
    refuse_links(store.runs_dir)
    states = store.states((run.id for run in table.runs), 0)
    needed = {table.runs[i].id for run in table.runs if not states[run.id].settled for i in run.inputs}
    unneeded = (store.folder(id) for id, state in states.items() if state.settled and id not in needed)
    left = store.unknown_entries()
    runs = sorted(set(store.ids()) - states.keys() - {path.name for path in left})
    weights = tuple(folder for folder in unneeded if folder.has_models())
    return Prunable(tuple(map(store.folder, runs)), weights, tuple(left))


def prune(root: Path, agreed: Prunable) -> tuple[int, int]:
    """Remove `agreed` files that are still not needed and not under way; return the (runs, bytes) removed."""
    now = prunable(root)
    runs, weights = ({folder.id for folder in folders} for folders in (now.runs, now.weights))
    removed = freed = 0
    for folder in agreed.runs:
        size = _size(folder.path)
        if folder.id in runs and removal.remove(folder):
            removed, freed = removed + 1, freed + size
    for folder in agreed.weights:
        size = _size(folder.models)
        if folder.id in weights and removal.remove_models(folder):
            freed += size
    return removed, freed


def incomplete(root: Path) -> list[str]:
    """List the planned runs that were begun, are not finished, and are not under way."""
    states = Store(root).states((run.id for run in read_plan(root).runs), 0)
    return [id for id, state in states.items() if state in (State.WAITING, State.PAUSED, State.FAILED)]


def begin_anew(root: Path, agreed: Sequence[str]) -> list[str]:
    """Remove the files of unfinished runs, unless done or under way by now; return the ids of those removed."""
    store = Store(root)
    store.states(agreed, 0)  # a first look at all: each removal is sure of a holder that is gone by a second one
    return [id for id in agreed if removal.reset(store.folder(id))]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
