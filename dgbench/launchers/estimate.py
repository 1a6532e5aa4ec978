"""Estimate the hours and the disk space of a launch before it is confirmed.

Time comes from finished runs of the folder, or else from a rehearsal. Both are scaled by the work of the runs that are
left (`launchers.pace`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from statistics import fmean

from dgbench.core.run import Run
from dgbench.core.wording import format_bytes, printable
from dgbench.data.cache import CachedDataset
from dgbench.data.cache_format import CacheIndex
from dgbench.launchers.base import Slot
from dgbench.launchers.pace import Rehearsal, by_finished, by_rehearsals, makespan
from dgbench.launchers.reconcile import Sweep
from dgbench.networks.start import weight_bytes
from dgbench.plan.cost import Cost, cost_of
from dgbench.plan.work import Work, Workload
from dgbench.store.times import read_times

_NAMED = 3
"""Most rehearsals that are named."""


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
    workload = Workload(sweep.plan, sweep.catalogue)
    works = [(run, workload.of(run)) for run in left]
    found, rehearsals = _by_finished_runs(sweep, workload, works, len(slots)) if done else None, list[Rehearsal]()
    if found is None and rehearse:
        found, rehearsals = _by_rehearsals(sweep, works, slots)
    if found is None:
        yield "time: unknown until runs finish"
    else:
        seconds, source = found
        at_once = f" with {len(slots)} runs at once" if len(slots) > 1 else ""
        yield f"time: about {_words(seconds)}{at_once}, {source}"
    yield f"disk: {'; '.join(_disk(sweep, rehearsals))}"


def _by_finished_runs(
    sweep: Sweep, workload: Workload, left: Sequence[tuple[Run, Work]], slots: int
) -> tuple[float, str] | None:
    """Return the seconds that runs will take and a remark on the source; None if no finished run tells its time."""
    remaining = {run.id for run, _ in left}
    finished = []
    for run in (run for run in sweep.plan.runs if run.id not in remaining):
        attempts = read_times(sweep.store.folder(run.id).path)
        if seconds := sum(attempt.get("seconds", 0.0) for attempt in attempts):
            finished.append((run, workload.of(run), seconds))
    if not finished:
        return None
    return makespan(by_finished(left, finished), slots), "from the times of finished runs"


def _by_rehearsals(
    sweep: Sweep, left: Sequence[tuple[Run, Work]], slots: Sequence[Slot]
) -> tuple[tuple[float, str] | None, list[Rehearsal]]:
    """Rehearse runs, if the sweep seems long enough; return seconds and source, if known, and the rehearsals."""
    # With multiprocessing, which a launch of which nothing is left does without.
    from dgbench.launchers import rehearsal as stage

    slots = slots[: len(left)]
    chosen = stage.choose(left)
    if not chosen or stage.guess(sweep, left, len(slots)) < stage.WORTHWHILE:
        return None, []

    def seconds(found: Sequence[Rehearsal]) -> float:
        return makespan(by_rehearsals(left, found), len(slots))

    def goes_on(found: Sequence[Rehearsal], spent: float) -> bool:
        return not found or spent < stage.SHARE * seconds(found)

    found, ready = stage.rehearse(sweep, chosen, slots, goes_on)
    if not found:
        return None, []
    named = ", ".join(
        f"{each.run.method.name} on {each.run.dataset} ({each.step:.2g} s a step)" for each in found[:_NAMED]
    )
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return (ready + seconds(found), f"from rehearsing {named}{more}"), found


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
