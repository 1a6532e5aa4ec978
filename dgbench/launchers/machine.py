"""Execute a sweep on this machine, each run in a process of its own: `--launcher local`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dgbench.launchers.estimate import estimate
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.launcher import Launcher
from dgbench.launchers.reconcile import Sweep


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Runs execute on this machine, each in a process of its own, and end with the command."""

    name = "local"

    def check(self, sweep: Sweep) -> None:
        """Raise UserError if the sweep wants a GPU, and there is none."""
        sweep.slots(self.jobs, self.jobs_per_gpu)

    def preview(self, sweep: Sweep, *, rehearse: bool) -> Iterator[str]:
        """Yield an estimate of time and disk space."""
        yield from estimate(sweep, sweep.slots(self.jobs, self.jobs_per_gpu), rehearse=rehearse)

    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Execute the unfinished runs; return the exit code."""
        with Interrupts() as interrupts:
            return sweep.execute(sweep.slots(self.jobs, self.jobs_per_gpu), interrupts, grace=self.grace)
