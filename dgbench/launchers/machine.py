"""Execute a sweep on this machine, each run in a process of its own: `--launcher local`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgbench.launchers.base import Slot
from dgbench.launchers.estimate import estimate
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.launcher import Launcher
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.sharing import choose_slots


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Runs execute on this machine, each in a process of its own, and end with the command."""

    name = "local"

    @cached_property
    def _slots(self) -> dict[Path, Sequence[Slot]]:
        """Sweep's folder -> the slots of its launch, which may take a rehearsal to choose."""
        return {}

    def check(self, sweep: Sweep) -> None:
        """Raise UserError if the sweep wants a GPU, and there is none."""
        sweep.slots(self.jobs, 1)

    def preview(self, sweep: Sweep, *, rehearse: bool) -> Iterator[str]:
        """Yield an estimate of time and disk space."""
        slots, line = choose_slots(sweep, self.jobs, self.jobs_per_gpu)
        self._slots[sweep.root] = slots
        if line:
            yield line
        yield from estimate(sweep, slots, rehearse=rehearse)

    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Execute the unfinished runs; return the exit code."""
        with Interrupts() as interrupts:
            slots = self._slots.get(sweep.root)
            if slots is None:
                slots, line = choose_slots(sweep, self.jobs, self.jobs_per_gpu)
                if line:
                    print(line)
            return sweep.execute(slots, interrupts, grace=self.grace)
