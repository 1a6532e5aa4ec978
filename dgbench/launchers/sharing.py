"""Choose how many runs share a GPU: `--jobs_per_gpu auto`.

As many as fit into its memory, by the largest run of the sweep, and as there are cores to feed them. What a run holds
comes from finished runs of the folder, or else from a rehearsal.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dgbench.core.errors import UserError
from dgbench.core.machine import usable_cores
from dgbench.core.run import Run
from dgbench.core.wording import count_nouns, format_bytes, printable
from dgbench.launchers.base import Slot
from dgbench.launchers.pace import key_of
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.rehearsal import rehearse
from dgbench.plan.work import Work, Workload
from dgbench.store.times import read_times

MARGIN = 0.1
"""Share of a GPU's memory that stays free: memory is not used whole once it is in pieces."""
FRAGMENTS = 1.25
"""Bytes that torch reserves, about, divided by those that it has given out at most."""


@dataclass(frozen=True)
class Sized:
    """A training run with the numbers that its memory depends on."""

    run: Run
    work: Work
    size: int
    """Numbers of an input."""


@dataclass(frozen=True)
class Gpu:
    """The memory of one GPU, in bytes."""

    free: float
    """Of which other processes hold nothing."""
    total: float
    context: float
    """Held by a process that uses the GPU, beside what torch reserves: its context, and kernels that are loaded."""


def fitting(gpu: Gpu, peak: float, cores: float, runs: int) -> int:
    """Return how many runs can share a GPU, at least 1.

    Args:
        gpu: Its memory.
        peak: Most bytes that torch reserves for the largest run.
        cores: Processor cores for each GPU; each run needs one.
        runs: Number of runs that are left.
    """
    room = gpu.free - MARGIN * gpu.total
    return max(1, min(math.floor(room / (peak + gpu.context)), math.floor(cores), runs))


def amount(work: Work, size: int) -> float:
    """Return the numbers of inputs that a training run passes in a step; the memory that it holds grows with them.

    Args:
        work: Of the run.
        size: Numbers of an input.
    """
    return work.passes / work.steps * size


def largest(runs: Iterable[Sized]) -> list[Sized]:
    """Return of each data set and network the runs that may hold most memory, to be rehearsed.

    One has the largest minibatch, another passes most in a step, in several passes; they may be the same.
    """
    found: dict[tuple[str, ...], tuple[float, Sized]] = {}
    for each in runs:
        rules = {"batch": int(each.run.method.hparams["batch_size"]), "passes": amount(each.work, each.size)}
        for rule, by in rules.items():
            place = (*key_of(each.run).place, rule)
            if place not in found or by > found[place][0]:
                found[place] = by, each
    return list({each.run.id: each for _, each in found.values()}.values())


def peaks(runs: Iterable[Sized], finished: Iterable[tuple[Sized, float]]) -> dict[tuple[str, str], float]:
    """Return (data set, network) -> most bytes that one of the runs will reserve, where a run of these has finished.

    Args:
        runs: Those that are left.
        finished: Runs, and the most bytes that each reserved. If those that are left pass more in a step than any of
            them, they hold more in proportion.
    """
    most: dict[tuple[str, str], float] = {}
    passed: dict[tuple[str, str], float] = {}
    for each, peak in finished:
        place = key_of(each.run).place
        most[place] = max(most.get(place, 0.0), peak)
        passed[place] = max(passed.get(place, 0.0), amount(each.work, each.size))
    found = dict[tuple[str, str], float]()
    for each in runs:
        place = key_of(each.run).place
        if place in most:
            grown = max(1.0, amount(each.work, each.size) / passed[place])
            found[place] = max(found.get(place, 0.0), grown * most[place])
    return found


def choose_slots(sweep: Sweep, jobs: int | None, jobs_per_gpu: int | str) -> tuple[list[Slot], str]:
    """Return the places of this machine where runs of a sweep execute at once, and a line on the choice.

    Args:
        sweep: As planned.
        jobs: Their number; None: as many as the GPUs take, or one a core.
        jobs_per_gpu: Most of them on one GPU, or `auto`.

    Raises:
        UserError: The sweep wants a GPU, and there is none, or one can't be used.
    """
    if isinstance(jobs_per_gpu, int):
        return sweep.slots(jobs, jobs_per_gpu), ""
    gpus = list(dict.fromkeys(slot.gpu for slot in sweep.slots(None, 1) if slot.gpu))
    count, line = choose(sweep, gpus)
    return sweep.slots(jobs, count), line


def choose(sweep: Sweep, gpus: Sequence[str]) -> tuple[int, str]:
    """Return how many runs of a sweep share each GPU, and a line on the reason.

    Args:
        sweep: As planned.
        gpus: Values for CUDA_VISIBLE_DEVICES, one a GPU; empty: this machine has none.
    """
    if not gpus:
        return 1, ""
    states, workload = sweep.states(), Workload(sweep.plan, sweep.catalogue)
    sized = {
        run.id: Sized(run, workload.of(run), math.prod(sweep.plan.datasets[run.dataset].input_shape))
        for run in sweep.plan.runs
        if run.kind == "train"
    }
    left = [each for id, each in sized.items() if not states[id].settled]
    if not left:
        return 1, ""
    done = [(each, _reserved(sweep, each.run)) for id, each in sized.items() if states[id].settled]
    found = peaks(left, [(each, peak) for each, peak in done if peak])
    unknown = [each for each in left if key_of(each.run).place not in found and not each.run.inputs]
    if unknown:
        slot = Slot(0, gpus[0], max(1, usable_cores() // len(gpus)))
        chosen = [(each.run, each.work) for each in largest(unknown)]
        rehearsed, _ = rehearse(sweep, chosen, [slot], lambda found, seconds: True)
        for each in rehearsed:
            place = key_of(each.run).place
            found[place] = max(found.get(place, 0.0), each.peak)
    lacking = sorted({each.run.dataset for each in unknown if not found.get(key_of(each.run).place)})
    if lacking:
        return 1, f"GPUs: one run on each, because no run on {printable(', '.join(lacking))} could be rehearsed"
    memory, peak = [measure(gpu) for gpu in gpus], max(found.values())
    count = min(fitting(gpu, peak, usable_cores() / len(gpus), len(left)) for gpu in memory)
    least = min(memory, key=lambda gpu: gpu.free)
    held = f"the largest reserves {format_bytes(peak + least.context)}, and {format_bytes(least.free)} are free"
    return count, f"GPUs: {count_nouns(count, 'run')} at once on each: {held}"


def _reserved(sweep: Sweep, run: Run) -> float:
    """Return the most bytes that a finished run reserved on a GPU; 0 if that is not recorded."""
    peaks = (
        attempt.get("reserved_bytes") or FRAGMENTS * (attempt.get("peak_bytes") or 0)
        for attempt in read_times(sweep.store.folder(run.id).path)
    )
    return max(peaks, default=0.0)


def measure(name: str) -> Gpu:
    """Measure the memory of a GPU, in a process of its own; raise UserError if it can't be used.

    Args:
        name: Value for CUDA_VISIBLE_DEVICES.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dgbench.execute.gpu_memory"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"GPU {name} can't be used: {printable(reason[:300])}; --device cpu does without GPUs")
    return Gpu(**json.loads(done.stdout.splitlines()[-1]))
