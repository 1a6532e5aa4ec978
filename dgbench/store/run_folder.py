"""Read and write a run's folder: its state follows from the names of the files in it, whichever process wrote them.

A run's folder is `<root>/runs/<id>/`. Its files:

* `run.json`: the run, written when it is first begun.
* `lease-0001`, `lease-0001.released`, ...: one pair for each attempt, see `store.lease`.
* `checkpoint.pt`, `progress.json`: state of an unfinished attempt, and steps made so far.
* `models/`, `predictions/`: weights and logits that are kept.
* `records.jsonl`, `times.jsonl`: evaluations, and for each execution its duration and machine.
* `log.txt`: output of all attempts.
* `failed-0001.json`, `killed-0002.json`, `lost-0001.json`, ...: notes on attempts, see `store.notes`.
* `done`: written last; names the number and the hash of the records, so that they can be trusted.

No state is stored as such, because the process that would have to update it may be killed at any moment. Whole files
appear by rename, and `done` comes after everything it vouches for. A process may therefore stop anywhere: the names
that are left describe what it achieved, and another attempt goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.run import Run, is_json_of, is_run_id
from dgbench.store import lease as leases
from dgbench.store import notes
from dgbench.store import records as records_file
from dgbench.store.files import making_sense_of, read_object, refuse_links, remove_path, write_json
from dgbench.store.lease import TTL, Lease, StopSignals
from dgbench.store.notes import Failures
from dgbench.store.process import file_clock
from dgbench.store.sealed import CorruptFile

RUNS, RUN, RECORDS, DONE, CANCEL = "runs", "run.json", "records.jsonl", "done", "cancel"
CHECKPOINT = "checkpoint.pt"

_FILES = {RUN, RECORDS, DONE, CHECKPOINT, leases.PROGRESS, "log.txt", "times.jsonl"}


class State(str, Enum):
    """What is known about a run, from its folder alone."""

    MISSING = "missing"
    """Nobody has begun it."""
    WAITING = "waiting"
    """Begun, not finished, and nobody executes it now."""
    RUNNING = "running"
    FAILED = "failed"
    """Failed more often than it may be retried, or in a way that trying again can't mend."""
    DAMAGED = "damaged"
    """A file that others believe is not what was written; only a look into the files tells (`RunFolder.damage`)."""
    DONE = "done"


def model_path(folder: Path, predictor: str, which: str) -> Path:
    """Where a run's folder holds the weights of a predictor, if they were kept; `which` is `run.BEST` or `run.LAST`."""
    return folder / "models" / f"{predictor}.{which}.safetensors"


class RunFolder:
    """All that is known about one run. Who executes the run holds its lease; only `fail` is for others too."""

    def __init__(self, root: Path, id: str, ttl: float = TTL) -> None:
        if not is_run_id(id):  # it becomes part of paths, of such that are removed too
            raise ValueError(f"{id!r} is no run's id")
        self.id = id
        self.path = root / RUNS / id
        self.models = self.path / "models"
        self.log_path = self.path / "log.txt"
        """Output of every attempt, one after the other."""
        self.ttl = ttl
        self._root = root

    def create(self, run: Run) -> None:
        """Make the folder and `run.json`; harmless if they exist."""
        assert run.id == self.id
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / RUN).exists():
            write_json(self.path / RUN, run.to_json())

    def run(self) -> Run:
        """Read the requested run; raise FileNotFoundError before it is begun, `CorruptFile` if it is damaged."""
        data = self._run_json()
        with making_sense_of(self.path / RUN):
            return Run.from_json(data)

    def _run_json(self) -> dict[str, Any]:
        path = self.path / RUN
        data = read_object(path)
        with making_sense_of(path):
            if not is_json_of(self.id, data):
                raise ValueError("it holds another run than its folder's name says")
        return data

    def damage(self) -> str:
        """Describe the damage to files of a run that is not under way; empty if there is none.

        The first damage is named. Failures and leases are not among it: what can't be read of them is told otherwise.
        """
        try:
            if self.finished() is None and (self.path / RUN).exists():
                self._check_files()
                self._run_json()
        except CorruptFile as error:
            return str(error)
        return ""

    def _check_files(self) -> None:
        """Raise `CorruptFile` if a folder lies where a file should."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name in _FILES and not entry.is_file():
                    raise CorruptFile(f"{entry.path} is damaged: it is no file")

    def finished(self) -> tuple[dict[str, Any], list[dict[str, Any]], int] | None:
        """Read all that others believe of a finished run; None before it has finished.

        Returns:
            What `finish` wrote, the records, and the number of torn lines among them that were cut off.

        Raises:
            CorruptFile: A file is not what was written.
        """
        summary = self.summary()
        if summary is None:
            return None
        try:
            self._run_json()
        except FileNotFoundError:
            raise CorruptFile(f"{self.path / RUN} is gone") from None
        records, torn = records_file.read_finished(self.path / RECORDS, summary["records"], summary["sha256"])
        return summary, records, torn

    def state(self, retries: int, now: Callable[[], float] | None = None) -> State:
        """What the folder says, given that a run may fail `retries` times and be tried again.

        One listing, and a look at the newest lease if it is not released. `now` gives the file server's time.
        """
        names = self._names()
        if DONE in names:
            return State.DONE
        number, released = leases.newest(names)
        if (
            number
            and not released
            and leases.is_held(self.path, number, self.ttl, now or (lambda: file_clock(self.path)))
        ):
            return State.RUNNING
        if Failures.among(names).exhausted(retries):
            return State.FAILED
        return State.WAITING if RUN in names else State.MISSING

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []

    # -- who executes it ------------------------------------------------------------------------------------------

    def claim(self, stops: StopSignals | None = None) -> Lease | None:
        """Take the right to execute the run, which `stops` may ask to end; None if it is done or another has it.

        Needs `create` before.
        """
        lease = leases.claim(self.path, self.path / DONE, self._root / CANCEL, self.ttl, stops=stops)
        if lease:
            self._remove_temporary_files()
        return lease

    def _remove_temporary_files(self) -> None:
        """Remove what earlier attempts were writing when they were killed (failures are others' to write)."""
        for folder in (self.path, self.models):
            if folder.is_symlink() or not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." and name.endswith(".tmp") and not name.startswith(".failed-"):
                        remove_path(Path(entry))

    def progress(self) -> tuple[int, int] | None:
        """Steps made and steps in all, a few seconds old; None if nothing is known."""
        try:
            step, steps = orjson.loads((self.path / leases.PROGRESS).read_bytes())
        except (OSError, ValueError, TypeError):
            return None
        return (step, steps) if isinstance(step, int) and isinstance(steps, int) else None

    # -- records --------------------------------------------------------------------------------------------------

    def append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: all of them, or none and OSError. They are on the disk when this returns."""
        records_file.append(self.path / RECORDS, records)

    def mark_records(self) -> tuple[int, str]:
        """Count the bytes of the records so far, and take their sha256, for a checkpoint to remember."""
        data = records_file.read_bytes(self.path / RECORDS)
        return len(data), hashlib.sha256(data).hexdigest()

    def truncate_records(self, size: int, sha256: str = "") -> None:
        """Go back to the bytes that a checkpoint remembers; raise `CorruptFile` if there are fewer, or others."""
        records_file.truncate(self.path / RECORDS, size, sha256)

    # -- how it ended ---------------------------------------------------------------------------------------------

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Say, last of all, that the run is done; the number of records and their sha256 are added."""
        data = records_file.read_bytes(self.path / RECORDS)
        sha256 = hashlib.sha256(data).hexdigest()
        write_json(self.path / DONE, {**summary, "records": data.count(b"\n"), "sha256": sha256})

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a run that is done; harmless if it is gone."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any] | None:
        """Read the summary of `finish`, None before; missing fields are empty; raise `CorruptFile` if it is damaged."""
        return notes.read_summary(self.path / DONE)

    def fail(self, info: Mapping[str, Any], number: int, *, final: bool = False, killed: bool = False) -> None:
        """Record that an attempt failed.

        Args:
            info: `exit`, `error`, `traceback`, `log`.
            number: The attempt's, which is that of its lease.
            final: Trying again can't mend it: the run stays failed until the failure is forgiven.
            killed: A signal from outside ended it; the first `FREE_KILLS` of these use up no retry.
        """
        notes.write_failure(self.path, info, number, final=final, killed=killed)

    def failures(self) -> list[dict[str, Any]]:
        """Read the failures that count, oldest first; of one that can't be read, this is the error."""
        return [notes.read_note(self.path / name, "error") for name in Failures.among(self._names()).files]

    def failed_attempts(self) -> set[int]:
        """List the numbers of the attempts whose failures count."""
        return Failures.among(self._names()).attempts

    def reason(self, retries: int | None = None) -> str:
        """Word the last failure: its error, how it stands with another attempt, and where the log is.

        Args:
            retries: How many times the run may fail and be tried again; None: don't count.
        """
        found = Failures.among(self._names())
        if not found.files:
            return f"no failure is on record (log: {self.log_path})"
        error = notes.read_note(self.path / found.files[-1], "error")["error"]
        return f"{error} ({'; '.join(filter(None, (found.outlook(retries), f'log: {self.log_path}')))})"

    def clear_failures(self) -> int:
        """Let the failures so far no longer count; return their number."""
        failures = Failures.among(self._names())
        notes.clear_failures(self.path, failures)
        return len(failures.files)

    def record_restart(self, why: str) -> None:
        """Record that what the attempts so far had done can't be used, so that the run begins anew."""
        notes.write_restart(self.path, self._names(), {"why": why, "log": str(self.log_path)})

    def restarts(self) -> list[dict[str, Any]]:
        """Read the records of `lose`, oldest first."""
        return [notes.read_note(self.path / name, "why") for name in notes.restart_notes(self._names())]

    def reset(self, *, done_too: bool = False) -> bool:
        """Remove all but `run.json` and the leases, as if nothing had happened.

        The leases stay, for their numbers must not be claimed twice.

        Args:
            done_too: Whether to remove the results of a run that is done, too.

        Returns:
            False, with nothing removed, if another process executes the run, or it is done.

        Raises:
            UserError: The folder is a link, or lies behind one.
        """
        lease = self._claim_for_removal(done_too)
        if lease:
            self._clear()
            lease.release()
        return lease is not None

    def begin_anew(self, why: str) -> None:
        """Remove the results of a run, done though it is, as `reset` does, and record why."""
        if self.reset(done_too=True):
            self.record_restart(why)

    def repair(self, run: Run) -> bool:
        """Remove everything of a run whose files are damaged but its leases, and write `run.json` anew, as `reset`."""
        lease = self._claim_for_removal(done_too=True)
        if lease:
            self._clear()
            remove_path(self.path / RUN)
            self.create(run)
            lease.release()
        return lease is not None

    def remove(self) -> bool:
        """Remove the folder of a run, done or not, as `reset` does; return whether it was removed."""
        lease = self._claim_for_removal(done_too=True)
        if lease:
            self._clear()
            shutil.rmtree(self.path)  # which follows no links
        return lease is not None

    def remove_models(self) -> bool:
        """Remove the weights of a run that is done; return False if they are gone, or the run is not done."""
        lease = self._claim_for_removal(done_too=True)
        if not lease:
            return False
        try:
            found = (self.path / DONE).exists() and self.has_models()
            if found:
                shutil.rmtree(self.models)
            return found
        finally:
            lease.release()

    def has_models(self) -> bool:
        """Decide whether the run's own folder, and not a link, holds weights."""
        return self.models.is_dir() and not self.models.is_symlink()

    def _claim_for_removal(self, done_too: bool) -> Lease | None:
        refuse_links(self.path.parent, self.path)
        return leases.claim(self.path, None if done_too else self.path / DONE, self._root / CANCEL, self.ttl)

    def _clear(self) -> None:
        with os.scandir(self.path) as entries:
            found = [entry for entry in entries if entry.name != RUN and not leases.is_lease(entry.name)]
        for entry in sorted(found, key=lambda entry: entry.name != DONE):  # first what says that the rest is whole
            remove_path(Path(entry))
