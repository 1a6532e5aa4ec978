"""Read and write a run's folder: its state follows from the names of the files in it, whichever process wrote them.

A run's folder is `<root>/runs/<id>/`. Its files:

* `run.json`: the run, written when it is first begun.
* `lease-0001`, `lease-0001.released`, ...: one pair for each attempt, see `store.lease`.
* `checkpoint.pt`, `progress.json`: state of an unfinished attempt, and steps made so far.
* `models/`, `predictions/`: weights and logits that are kept.
* `records.jsonl`, `times.jsonl`: evaluations, and for each execution its duration and machine.
* `log.txt`: output of all attempts.
* `failed-0001.json`, `killed-0002.json`, `lost-0001.json`, ...: notes on attempts, see `store.notes`.
* `rung-00000300-0.8125.json`, ...: in a search that drops runs, what `done` will hold, as of a step at which the run is
  compared with others, with its score there.
* `done`: written last, with the number and the hash of the records, so that they can be trusted.

No state is stored as such, because the process that would have to update it may be killed at any moment. Whole files
appear by rename, and `done` comes after everything it vouches for. A process may therefore stop anywhere: the names
that are left describe what it achieved, and another attempt goes on from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.run import Run, is_json_of, is_run_id
from dgbench.store import lease as leases
from dgbench.store import notes
from dgbench.store import records as records_file
from dgbench.store.files import check_files, making_sense_of, read_object, refuse_links, remove_path, write_json
from dgbench.store.holder import Holder, Looks, default_ttl, is_held, read_holder
from dgbench.store.lease import Lease, StopSignals
from dgbench.store.notes import Failures
from dgbench.store.process import file_clock
from dgbench.store.sealed import CorruptFile
from dgbench.store.state import State
from dgbench.store.verified import stamp_of

RUNS, RUN, RECORDS, DONE, CANCEL = "runs", "run.json", "records.jsonl", "done", "cancel"
"""Names in a sweep's folder (`RUNS`, `CANCEL`) and in a run's."""
CHECKPOINT = "checkpoint.pt"
"""Name of the file from which an unfinished run resumes."""

_FILES = {RUN, RECORDS, DONE, CHECKPOINT, leases.PROGRESS, "log.txt", "times.jsonl"}
"""Names that must be files; a folder in place of one is damage."""


class RunFolder:
    """The folder of one run. All of its state is on disk, so instances are cheap and may be made anywhere.

    Reading methods may be called at any time by any process. Methods that write records, checkpoints or results are for
    the process that holds the run's lease (`claim`), except for `create`, `fail` and `clear_failures`. What removes
    results is in `store.removal`.
    """

    def __init__(self, root: Path, id: str, ttl: float | None = None, looks: Looks | None = None) -> None:
        """Open the folder of run `id`, which need not exist.

        Args:
            root: The sweep's folder.
            id: The run's id.
            ttl: Seconds without a sign of life after which leases that are claimed through this object count as given
                up; None: by the file system.
            looks: Signs of life that this process has seen of holders elsewhere; None: none.

        Raises:
            ValueError: `id` does not have the form of a run's id.
        """
        if not is_run_id(id):  # it becomes part of paths, some of which are removed: `../..` must not get that far
            raise ValueError(f"{id!r} is not the id of a run")
        self.id = id
        self.ttl = ttl or default_ttl(root)
        self._looks = looks or Looks()
        self._root = root
        self._place = f"{root}/{RUNS}/{id}"

    # Made when they are asked for: tables open thousands of folders, and paths take longer to make than to read.

    @cached_property
    def path(self) -> Path:
        """Return the folder."""
        return Path(self._place)

    @property
    def models(self) -> Path:
        """Return the folder of the weights that are kept."""
        return self.path / "models"

    @property
    def log_path(self) -> Path:
        """Return the file with the output of every attempt, one after the other."""
        return self.path / "log.txt"

    def create(self, run: Run) -> None:
        """Make the folder and `run.json`, unless they exist."""
        assert run.id == self.id
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / RUN).exists():
            try:
                write_json(self.path / RUN, run.to_json())
            except FileNotFoundError:
                # No lease is held here. A launch that was faster has made the file and claimed the run meanwhile, and
                # whoever holds the lease removes temporary files.
                if not (self.path / RUN).exists():
                    raise

    def run(self) -> Run:
        """Read the run from `run.json`.

        Raises:
            FileNotFoundError: The run was not begun.
            CorruptFile: The file is damaged, or holds another run than the folder's name.
        """
        data = self._run_json()
        with making_sense_of(self.path / RUN):
            return Run.from_json(data)

    def _run_json(self) -> dict[str, Any]:
        path = self._file(RUN)
        data = read_object(path)
        with making_sense_of(path):
            if not is_json_of(self.id, data):
                raise ValueError("it holds another run than its folder's name says")
        return data

    def damage(self, rung: int | None = None) -> str:
        """Return the first damage found in the files of a run that is not under way; empty if there is none.

        Notes on failures and leases are not examined: readers of those cope with damage by themselves. For `rung` see
        `finished`.
        """
        try:
            if self._verified(rung) is None and (self.path / RUN).exists():
                check_files(self.path, _FILES)
                self._run_json()
        except CorruptFile as error:
            return str(error)
        return ""

    def stamp(self, rung: int | None = None) -> tuple[str, float]:
        """Return a digest and a date that change with the files of `finished`; see `verified.stamp_of`."""
        summary = DONE if rung is None else self._notes_of_rungs().get(rung, DONE)
        return stamp_of(map(self._file, (summary, RUN, RECORDS)))

    def _file(self, name: str) -> str:
        return f"{self._place}/{name}"

    def finished(self, rung: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]], int] | None:
        """Read the results of a run and verify them, if it has finished, or if the search has dropped it.

        Args:
            rung: Step at which the search dropped the run; None: it did not.

        Returns:
            The summary that `finish` or `reach` wrote, the records, and the number of torn lines among them that were
            cut off; None if the run has not finished.

        Raises:
            CorruptFile: A file differs from the one that was written.
        """
        if (found := self._verified(rung)) is None:
            return None
        summary, lines, torn = found
        return summary, records_file.parse(lines), torn

    def _verified(self, rung: int | None) -> tuple[dict[str, Any], list[bytes], int] | None:
        """Read the files of `finished`, with a line for each record."""
        summary = self.summary(rung)
        if summary is None:
            return None
        try:
            self._run_json()
        except FileNotFoundError:
            raise CorruptFile(f"{self.path / RUN} is gone") from None
        return summary, *records_file.read_finished(self._file(RECORDS), summary["records"], summary["sha256"])

    def state(
        self, retries: int, now: Callable[[], float] | None = None, names: Collection[str] | None = None
    ) -> State:
        """Return the run's state, from one listing of the folder and, if a lease is open, a look at that lease.

        Args:
            retries: How many times the run may fail and be tried again.
            now: Returns the file server's time in seconds; None: ask the server through this folder.
            names: The listing; None: list the folder.
        """
        # `done` outranks an open lease: between writing `done` and releasing the lease a process may have been killed.
        names = self.names() if names is None else names
        if DONE in names:
            return State.DONE
        number, released = leases.newest(names)
        now = now or (lambda: file_clock(self.path))
        if number and not released and is_held(self.path / leases.lease_name(number), self.ttl, now, self._looks):
            return State.RUNNING
        if Failures.among(names).exhausted(retries):
            return State.FAILED
        return State.WAITING if RUN in names else State.MISSING

    def names(self) -> list[str]:
        """List the folder; empty if there is none."""
        try:
            return os.listdir(self._place)
        except FileNotFoundError:
            return []

    # -- execution ------------------------------------------------------------------------------------------------

    def claim(self, stops: StopSignals | None = None) -> Lease | None:
        """Take the lease that gives the right to execute the run; None if the run is done or another process holds it.

        Call `create` first.

        Args:
            stops: Signals by which the holder may be asked to stop; None: there are none.
        """
        lease = leases.claim(self.path, self.path / DONE, self._root / CANCEL, self.ttl, stops=stops, looks=self._looks)
        if lease:
            self._remove_temporary_files()
        return lease

    def claim_for_removal(self, *, done_too: bool) -> Lease | None:
        """Take the lease before files of the run are removed.

        Args:
            done_too: Whether the run may be done.

        Returns:
            None if another process holds it, or if the run is done and must stay.

        Raises:
            UserError: The folder is a link, or lies behind one.
        """
        refuse_links(self.path.parent, self.path)
        done = None if done_too else self.path / DONE
        return leases.claim(self.path, done, self._root / CANCEL, self.ttl, looks=self._looks)

    def _remove_temporary_files(self) -> None:
        """Remove half-written files that killed attempts left."""
        # The lease is held by now, so no process is writing these any more. Notes on failures are the exception: a
        # launcher writes them without a lease, and may be about to rename one.
        for folder in (self.path, self.models):
            if folder.is_symlink() or not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." and name.endswith(".tmp") and not name.startswith(".failed-"):
                        remove_path(Path(entry))

    def progress(self) -> tuple[int, int] | None:
        """Return (steps made, steps in all), a few seconds old; None if they are unknown."""
        try:
            step, steps = orjson.loads((self.path / leases.PROGRESS).read_bytes())
        except (OSError, ValueError, TypeError):
            return None
        return (step, steps) if isinstance(step, int) and isinstance(steps, int) else None

    def holder(self) -> tuple[Holder, float] | None:
        """Return the holder of the newest lease and the time of its last sign of life, by the file server's clock.

        None if no attempt was made, or the lease can't be read.
        """
        number, _ = leases.newest(self.names())
        path = self.path / leases.lease_name(number)
        holder = read_holder(path) if number else None
        try:
            return (holder, path.stat().st_mtime) if holder else None
        except FileNotFoundError:
            return None

    def is_released(self) -> bool:
        """Return whether the lease of the newest attempt is released; True before the first attempt."""
        number, released = leases.newest(self.names())
        return released or not number

    def host(self) -> str:
        """Return the machine of the newest attempt; empty if there was none or its lease can't be read."""
        found = self.holder()
        return found[0].process.host if found else ""

    # -- records --------------------------------------------------------------------------------------------------

    def append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append all records to `records.jsonl` and sync them to disk, or raise OSError and append none."""
        records_file.append(self.path / RECORDS, records)

    def recorded(self) -> list[dict[str, Any]]:
        """Return the records so far, for the process that holds the run's lease."""
        return records_file.parse(records_file.read_bytes(self.path / RECORDS).splitlines())

    def mark_records(self) -> tuple[int, str]:
        """Return the size in bytes and the sha256 of the records so far, to be stored in a checkpoint."""
        data = records_file.read_bytes(self.path / RECORDS)
        return len(data), hashlib.sha256(data).hexdigest()

    def truncate_records(self, size: int, sha256: str = "") -> None:
        """Cut the records back to the size stored in a checkpoint.

        Args:
            size: In bytes, from `mark_records`.
            sha256: From `mark_records`; empty: don't compare.

        Raises:
            CorruptFile: There are fewer bytes, or the hash differs.
        """
        records_file.truncate(self.path / RECORDS, size, sha256)

    # -- endings --------------------------------------------------------------------------------------------------

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `done`, with the number and the sha256 of the records added to `summary`: the last write of a run."""
        write_json(self.path / DONE, self._with_records(summary))

    def _with_records(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        data = records_file.read_bytes(self.path / RECORDS)
        return {**summary, "records": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}

    def reach(self, rung: int, score: float, summary: Mapping[str, Any]) -> None:
        """Record the score of the run at a rung of the search, with the summary that `finish` would write now."""
        write_json(self.path / notes.rung_name(rung, score), self._with_records(summary))

    def scores(self) -> dict[int, float]:
        """Return rung -> score, of the rungs of the search that the run has reached."""
        return {step: score for step, (score, _) in notes.rungs(self.names()).items()}

    def _notes_of_rungs(self) -> dict[int, str]:
        return {step: name for step, (_, name) in notes.rungs(self.names()).items()}

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, if there is one."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def summary(self, rung: int | None = None) -> dict[str, Any] | None:
        """Read the summary of `finished`, with the fields that an earlier version did not write empty.

        Raises:
            CorruptFile: `done` is damaged.
        """
        found = notes.read_summary(self._file(DONE))
        reached = self._notes_of_rungs() if found is None and rung is not None else {}
        return notes.read_summary(self._file(reached[rung])) if rung in reached else found

    def fail(self, info: Mapping[str, Any], number: int, *, final: bool = False, killed: bool = False) -> None:
        """Record that an attempt failed.

        Any process may call this: one that was killed can't, and the launcher that saw it end does.

        Args:
            info: `exit`, `error`, `traceback`, `log`.
            number: Number of the attempt, which is its lease's.
            final: Another attempt can't mend it, so the run stays failed until `clear_failures`.
            killed: A signal from outside ended it; the first `FREE_KILLS` of these use up no retry.
        """
        notes.write_failure(self.path, info, number, final=final, killed=killed)

    def failures(self) -> list[dict[str, Any]]:
        """Read the notes on failures that count, oldest first.

        A note that can't be read is replaced by one whose error says so.
        """
        return [notes.read_note(self.path / name, "error") for name in Failures.among(self.names()).files]

    def failed_attempts(self) -> set[int]:
        """Return the numbers of the attempts whose failures count."""
        return Failures.among(self.names()).attempts

    def reason(self, retries: int | None = None) -> str:
        """Return a line on the last failure: its error, the chance of another attempt, and the path of the log.

        Args:
            retries: How many times the run may fail and be tried again; None: leave the count out.
        """
        found = Failures.among(self.names())
        if not found.files:
            return f"no failure is on record (log: {self.log_path})"
        error = notes.read_note(self.path / found.files[-1], "error")["error"]
        return f"{error} ({'; '.join(filter(None, (found.outlook(retries), f'log: {self.log_path}')))})"

    def clear_failures(self) -> int:
        """Make all failures so far no longer count, and return their number."""
        failures = Failures.among(self.names())
        notes.clear_failures(self.path, failures)
        return len(failures.files)

    def record_restart(self, why: str) -> None:
        """Record that the work of all attempts so far is unusable, so that the run starts from its first step."""
        notes.write_restart(self.path, self.names(), {"why": why, "log": str(self.log_path)})

    def restarts(self) -> list[dict[str, Any]]:
        """Read the notes of `record_restart`, oldest first."""
        return [notes.read_note(self.path / name, "why") for name in notes.restart_notes(self.names())]

    def has_models(self) -> bool:
        """Return whether the run's own folder holds weights; a link to a folder elsewhere does not count."""
        return self.models.is_dir() and not self.models.is_symlink()
