"""Removes what a sweep's folder no longer needs: runs that its plan no longer has, weights that no run reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from dgbench.plan.planfile import read_plan
from dgbench.store.folder import RunFolder, State, Store


def prunable(root: Path) -> tuple[list[RunFolder], list[Path]]:
    """Runs that the plan no longer has, and folders of weights of finished runs that no unfinished run reads."""
    table, store = read_plan(root), Store(root)
    states = store.states((run.id for run in table.runs), 0)
    needed = {table.runs[i].id for run in table.runs if states[run.id] is not State.DONE for i in run.inputs}
    unneeded = (id for id, state in states.items() if state is State.DONE and id not in needed)
    weights = [models for id in unneeded if (models := store.folder(id).path / "models").is_dir()]
    return [store.folder(id) for id in sorted(set(store.ids()) - states.keys())], weights


def prune(root: Path) -> tuple[int, int]:
    """Remove `prunable` runs and weights, except runs under way; return the (runs, bytes) removed."""
    runs, weights = prunable(root)
    removed = freed = 0
    for folder in runs:
        if folder.reset():
            freed += _size(folder.path)
            shutil.rmtree(folder.path)
            removed += 1
    for models in weights:
        freed += _size(models)
        shutil.rmtree(models)
    return removed, freed


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
