"""Launch a sweep as a process of its own, as `dgbench launch` does, and return a handle on it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

from dgbench.api.classes import IncludedClasses
from dgbench.api.options import in_words_of_python, read_options, with_options
from dgbench.api.train import RunFailed
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import Problems
from dgbench.core.progress import print_line, shown_progress
from dgbench.core.wording import printable
from dgbench.launchers.launcher import last_launcher, words_of
from dgbench.launchers.prepare import plan_launch
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.values import asked_of, launcher_of
from dgbench.plan.options import LAUNCH, LAUNCHER
from dgbench.plan.planfile import read_plan
from dgbench.plan.sweep_file import merge_flags_over_file, read_sweep_file
from dgbench.report.frames import SweepResults, load_results
from dgbench.report.overview import overview
from dgbench.report.signs import retries_of, running_lines
from dgbench.store.folder import Store
from dgbench.store.state import State

LOG = "launch.log"
"""Name of the file in the sweep's folder that has the output of launches from Python."""
_OPTIONS = {title: options for title, options in LAUNCH.items() if options != LAUNCHER}
_TAIL = 20
"""Lines of the log that an error quotes."""


def sweep(
    output_dir: str | PathLike[str],
    *,
    sweep: str | PathLike[str] | None = None,
    launcher: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Launched:
    """Launch a sweep in processes of its own; return without waiting for it.

    The same call again resumes what was stopped and adds what is new; without a request it goes on with the folder's
    own. The sweep outlives this process: end it by `cancel` of the handle, or by `dgbench cancel`.

    Args:
        output_dir: The sweep's folder.
        sweep: A shipped sweep by name, or a TOML file; other arguments win over it.
        launcher: Where runs execute: the name of a launcher, or a dict like the table `[launcher]` of a sweep file,
            `{"name": "slurm", "partition": "gpu"}`.
        **options: The keys of sweep files and the flags of `dgbench launch` under their names
            (`algorithms=["ERM", "VREx"], datasets="RotatedDigits", quick=True`), any field of `Setting`, and the dicts
            `hparams`, `setting`, `space`, `set` and `grid`. Algorithms and data sets may be classes, such as those that
            a notebook defines, and data sets what `from_dataset` returned; for a row such as `"Mine+SWAD"` the class is
            in `include`.

    Raises:
        UserError: With everything that is wrong, before anything is written.
    """
    root = Path(output_dir)
    with in_words_of_python(), redirect_stdout(sys.stderr):
        classes = IncludedClasses(root, apart=False)
        given = classes.options(options)
        with classes.written():
            planned, words = _planned(root, sweep, launcher, given)
        for line in planned.remarks():
            if line.startswith("WARNING"):
                print(line)
        planned.ensure_inputs()
        planned.write()
    if all(state.settled for state in planned.states().values()):
        return Launched(root, None)
    command = [sys.executable, "-m", "dgbench", "launch", str(root), "--skip_confirmation", "--launcher", *words]
    with (root / LOG).open("ab") as log:
        return Launched(root, _start(command, log))


with_options(sweep, _OPTIONS)


def _planned(
    root: Path, file: str | PathLike[str] | None, launcher: str | Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[Sweep, list[str]]:
    """Plan a launch; return it with the words for its launcher, or raise UserError with everything that is wrong."""
    values = read_options(options, _OPTIONS, ("setting", "space"))
    problems, asked = Problems(), dict[str, Any]()
    catalogue = Catalogue(values.get("include") or ())
    with problems.collecting():
        asked = asked_of(values)
        if file is not None:
            asked = merge_flags_over_file(read_sweep_file(Path(file)), asked)
    table = asked.pop("launcher", {})
    if launcher is not None:
        table = {"name": launcher} if isinstance(launcher, str) else dict(launcher)
    with problems.collecting():
        chosen = launcher_of(values, table)
    with problems.collecting():
        planned = plan_launch(root, asked, values, catalogue)
        problems.raise_if_any()
        chosen.check(planned)
    problems.raise_if_any()
    return planned, words_of(chosen)


def _start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: an interrupt of the notebook does not reach it, nor the notebook's end.

    It is started anew, never forked from this process, which may have threads and a GPU.
    """
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


@dataclass(frozen=True)
class Status:
    """The state of a sweep at one moment; shown as the lines of `dgbench status`."""

    runs: Mapping[str, int]
    """State (`done`, `running`, `waiting`, `missing`, `paused`, `dropped`, `failed`, `damaged`) -> number of runs."""
    failed: tuple[str, ...]
    """A line on each run that failed or is damaged, with the reason."""
    lines: tuple[str, ...]
    """The lines of `dgbench status`."""

    @property
    def done(self) -> bool:
        """Return whether all runs are done, or dropped by the search."""
        return all(State(state).settled for state, count in self.runs.items() if count)

    def __repr__(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Launched:
    """A handle on a sweep that was launched from this process."""

    folder: Path
    """The sweep's folder."""
    process: subprocess.Popen[bytes] | None
    """The process of `dgbench launch`, whose output is in `launch.log` of the folder; None: nothing was left to do."""

    def __repr__(self) -> str:
        return f"{self.status()}\nfolder: {self.folder}"

    def status(self) -> Status:
        """Return how many runs are in which state, why runs failed, and which are under way."""
        table, store = read_plan(self.folder), Store(self.folder)
        survey = store.survey((run.id for run in table.runs), retries_of(self.folder))
        states = survey.states
        counts = Counter(state.value for state in states.values())
        lines = tuple(overview(store, table, survey))
        failed = tuple(line for line in lines if line.startswith(("failed: ", "damaged: ")))
        return Status(counts, failed, (*lines, *running_lines(store, table, states)))

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until the launch ends, and show how far it is.

        Ctrl-C cancels the sweep: its runs save their state, and the same call of `dgbench.sweep` goes on.

        Args:
            timeout: Longest time to wait, in seconds; None: till the end.

        Returns:
            The state of the sweep then. Runs that failed are in it, and on standard error.

        Raises:
            TimeoutError: It has not ended in time. It goes on.
            RunFailed: The launch ended early for another reason than failed runs; the message has the end of its log.
        """
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        try:
            with shown_progress() as report:
                while True:
                    over = self.process is None or self.process.poll() is not None
                    status = self.status()
                    settled = sum(count for state, count in status.runs.items() if State(state).settled)
                    report("runs", settled, sum(status.runs.values()))
                    if over:
                        break
                    if time.monotonic() > until:
                        raise TimeoutError(f"{self.folder} is not done after {timeout:g} s; it goes on")
                    self._pause(min(1.0, max(0.05, until - time.monotonic())))
        except KeyboardInterrupt:
            self.cancel()
            raise
        for line in status.failed:
            print_line(line)
        if self.process is not None and self.process.returncode and not status.failed and not status.done:
            tail = "\n".join((self.folder / LOG).read_text(errors="replace").splitlines()[-_TAIL:])
            raise RunFailed(f"the launch ended with exit code {self.process.returncode}; its log ends:\n{tail}")
        return status

    def results(self) -> SweepResults:
        """Return the results of the runs that are done, as `load_results` reads them now."""
        return load_results(self.folder)

    def cancel(self) -> Status:
        """Let running runs, on any machine, save their state and stop; return the state of the sweep then."""
        if self.status().done:
            return self.status()
        Store(self.folder).request_cancel()
        launcher = last_launcher(self.folder)
        for line in launcher.cancel(self.folder) if launcher else ():
            print_line(printable(line))
        if self.process is not None and self.process.poll() is None:
            # Where it has not come to its first run yet, it does not see the request. It ignores an interrupt if this
            # process does, as a kernel that was started in the background of a shell.
            self.process.terminate()
            self.process.wait()
        return self.status()

    def _pause(self, seconds: float) -> None:
        assert self.process
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
