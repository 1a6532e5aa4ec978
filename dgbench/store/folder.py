"""The sweep folder is the truth: a run's state follows from the names in its folder, whoever wrote them and whoever
died meanwhile. Everything is written beside and renamed, `done` last.

<root>/sweep.json  cancel  runs/<id>/
    run.json  lease-0001 lease-0001.released ...  checkpoint.pt  models/  progress.json
    records.jsonl  times.jsonl  log.txt  failed-0001.json ...  lost-0001.json ...  done
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.run import Run, is_run_id
from dgbench.store import lease as leases
from dgbench.store.files import refuse_links, write_atomic, write_json
from dgbench.store.lease import TTL, Lease, StopSignals, cancel_mark
from dgbench.store.process import file_clock
from dgbench.store.sealed import Garbled

RUNS, RUN, RECORDS, DONE, CANCEL = "runs", "run.json", "records.jsonl", "done", "cancel"
CHECKPOINT = "checkpoint.pt"

MOST_KILLS = 3
"""How many attempts at a run may be killed from outside before it counts as failed: what kills it may be itself."""

UNMENDED = "not tried again by itself: mend that, then `dgbench sweep retry`"
"""What is said of a run whose failure is final."""

_FAILED = re.compile(r"(?:failed|killed)-(\d+)(\.final)?\.json")
_LOST = re.compile(r"lost-(\d+)\.json")


class State(str, Enum):
    """What is known about a run, from its folder alone."""

    MISSING = "missing"
    """Nobody has begun it."""
    WAITING = "waiting"
    """Begun, not finished, and nobody executes it now."""
    RUNNING = "running"
    FAILED = "failed"
    """Failed more often than it may be retried, or in a way that trying again can't mend."""
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
        """The run as it was asked for; FileNotFoundError if nobody has begun it."""
        return Run.from_json(orjson.loads((self.path / RUN).read_bytes()))

    def state(self, retries: int, now: Callable[[], float] | None = None) -> State:
        """What the folder says, given that a run may fail `retries` times and be tried again.

        One listing, and a look at the newest lease if it is not released. `now` gives the file server's time.
        """
        names = self._names()
        if DONE in names:
            return State.DONE
        number, released = leases.newest(names)
        if number and not released and leases.is_held(self.path, number, self.ttl, now or self._clock):
            return State.RUNNING
        failures = [name for name in names if _FAILED.fullmatch(name)]
        kills = sum(map(_is_kill, failures))
        if len(failures) - kills > retries or kills > MOST_KILLS or any(map(_is_final, failures)):
            return State.FAILED
        return State.WAITING if RUN in names else State.MISSING

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []

    def _clock(self) -> float:
        return file_clock(self.path)

    # -- who executes it ------------------------------------------------------------------------------------------

    def claim(self, stops: StopSignals | None = None) -> Lease | None:
        """Take the right to execute the run, which `stops` may ask to end; None if it is done or another has it.

        Needs `create` before.
        """
        lease = leases.claim(self.path, self.path / DONE, self._root / CANCEL, self.ttl, stops=stops)
        if lease:
            self._sweep_up()
        return lease

    def _sweep_up(self) -> None:
        """Remove what earlier attempts were writing when they were killed (failures are others' to write)."""
        for folder in (self.path, self.models):
            if folder.is_symlink() or not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." and name.endswith(".tmp") and not name.startswith(".failed-"):
                        _remove(entry)

    def progress(self) -> tuple[int, int] | None:
        """Steps made and steps in all, a few seconds old; None if nothing is known."""
        try:
            step, steps = orjson.loads((self.path / leases.PROGRESS).read_bytes())
        except (OSError, ValueError):
            return None
        return step, steps

    # -- records --------------------------------------------------------------------------------------------------

    def append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: all of them, or none and OSError. They are on the disk when this returns."""
        data = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
        file = os.open(self.path / RECORDS, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            size = os.fstat(file).st_size
            assert size == 0 or os.pread(file, 1, size - 1) == b"\n", "a torn line: truncate_records first"
            try:
                _write_all(file, data)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)

    def mark_records(self) -> tuple[int, str]:
        """Bytes of records so far, and their sha256, for a checkpoint to remember."""
        data = self._records()
        return len(data), hashlib.sha256(data).hexdigest()

    def truncate_records(self, size: int, sha256: str = "") -> None:
        """Back to the bytes that a checkpoint remembers; raises `Garbled` if there are fewer, or others (by sha256)."""
        data = self._records()
        if len(data) < size:
            raise Garbled(f"{self.path / RECORDS} has {len(data)} bytes, the checkpoint has seen {size}")
        if sha256 and hashlib.sha256(data[:size]).hexdigest() != sha256:
            raise Garbled(f"{self.path / RECORDS} is not what the checkpoint has seen")
        if len(data) > size:
            file = os.open(self.path / RECORDS, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.ftruncate(file, size)
            finally:
                os.close(file)

    def _records(self) -> bytes:
        try:
            return (self.path / RECORDS).read_bytes()
        except FileNotFoundError:
            return b""

    def read_records(self, summary: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """Read the records that the run finished with.

        A process that lost the run while it was writing may have left torn lines among them, which are cut off.

        Args:
            summary: What `self.summary()` returned.

        Returns:
            The records, and the number of lines that were cut off.

        Raises:
            Garbled: Without torn lines the file is not what `finish` saw, or it can't be read.
        """
        try:
            data = self._records()
        except OSError:
            data = b""
        lines = [line for line in data.split(b"\n") if line]
        torn = 0
        if hashlib.sha256(data).hexdigest() != summary["sha256"]:
            whole = [line for line in lines if _is_record(line)]
            if hashlib.sha256(b"".join(line + b"\n" for line in whole)).hexdigest() != summary["sha256"]:
                raise Garbled(f"{RECORDS} doesn't hold the {summary['records']} records that the run finished with")
            lines, torn = whole, len(lines) - len(whole)
        records: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
        return records, torn

    # -- how it ended ---------------------------------------------------------------------------------------------

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Say, last of all, that the run is done; the number of records and their sha256 are added."""
        data = self._records()
        checked = {"records": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
        write_json(self.path / DONE, {**summary, **checked})

    def remove_checkpoint(self) -> None:
        """Remove what a run that is done no longer needs; harmless if it is gone."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None."""
        try:
            summary: dict[str, Any] = orjson.loads((self.path / DONE).read_bytes())
        except FileNotFoundError:
            return None
        return summary

    def fail(self, info: Mapping[str, Any], number: int, *, final: bool = False, killed: bool = False) -> None:
        """Record that an attempt failed.

        Args:
            info: `exit`, `error`, `traceback`, `log`.
            number: The attempt's, which is that of its lease.
            final: Trying again can't mend it: the run stays failed until the failure is forgiven.
            killed: A signal from outside ended it, which uses up no retry; of such only `MOST_KILLS` are borne.
        """
        name = f"killed-{number:04d}.json" if killed else f"failed-{number:04d}{'.final' if final else ''}.json"
        write_json(self.path / name, {"attempt": number, **info})

    def failures(self) -> list[dict[str, Any]]:
        """Read the failures that count, oldest first."""
        return [orjson.loads(path.read_bytes()) for path in self._numbered(_FAILED)]

    def failed_attempts(self) -> set[int]:
        """List the numbers of the attempts whose failures count."""
        return {int(match[1]) for path in self._numbered(_FAILED) if (match := _FAILED.fullmatch(path.name))}

    def reason(self, retries: int | None = None) -> str:
        """Word the last failure: its error, how it stands with another attempt, and where the log is.

        Args:
            retries: How many times the run may fail and be tried again; None: don't count.
        """
        paths = self._numbered(_FAILED)
        if not paths:
            return f"no failure is on record; log: {self.log_path}"
        said = [str(self.failures()[-1]["error"])]
        kills = sum(_is_kill(path.name) for path in paths)
        if any(_is_final(path.name) for path in paths):
            said.append(UNMENDED)
        elif _is_kill(paths[-1].name):
            said.append(f"killed {kills} times, tried again up to {MOST_KILLS} times")
        elif retries is not None:
            said.append(f"{len(paths) - kills} of {retries + 1} attempts")
        return f"{said[0]} ({'; '.join((*said[1:], f'log: {self.log_path}'))})"

    def forgive(self) -> int:
        """Let the failures so far no longer count; return their number."""
        failures = self._numbered(_FAILED)
        for path in failures:
            path.rename(path.with_name(re.sub("^[a-z]+", "forgiven", path.name)))
        return len(failures)

    def lose(self, why: str) -> None:
        """Record that what the attempts so far had done can't be used, so that the run begins anew."""
        write_json(self.path / f"lost-{len(self.losses()) + 1:04d}.json", {"why": why, "log": str(self.log_path)})

    def losses(self) -> list[dict[str, Any]]:
        """What `lose` recorded, oldest first."""
        return [orjson.loads(path.read_bytes()) for path in self._numbered(_LOST)]

    def _numbered(self, pattern: re.Pattern[str]) -> list[Path]:
        """List the files whose names match, by the number in them."""
        found = [match for name in self._names() if (match := pattern.fullmatch(name))]
        return [self.path / match[0] for match in sorted(found, key=lambda match: int(match[1]))]

    # -- removal --------------------------------------------------------------------------------------------------

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
            _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    """Remove a file, a folder with all that is in it, or a link, but not what that points to."""
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        Path(entry.path).unlink(missing_ok=True)


def _is_kill(name: str) -> bool:
    return name.startswith("killed-")


def _is_final(name: str) -> bool:
    return name.endswith(".final.json")


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


class Store:
    """A sweep's folder. `ttl`: seconds without a sign of life after which a process elsewhere counts as gone."""

    def __init__(self, root: Path, ttl: float = TTL) -> None:
        self.root = root
        self.runs_dir = root / RUNS
        self.ttl = ttl

    def folder(self, id: str) -> RunFolder:
        """The folder of a run, which need not exist."""
        return RunFolder(self.root, id, self.ttl)

    def ids(self) -> list[str]:
        """List the runs that were begun, sorted: folders, and no links, whose names have the form of an id."""
        return [entry.name for entry in self._entries() if _is_run_folder(entry)]

    def strangers(self) -> list[Path]:
        """List what lies among the runs and is none: other names, files, links, folders of other content."""
        return [Path(entry.path) for entry in self._entries() if not (_is_run_folder(entry) and _holds_run(entry))]

    def _entries(self) -> list[os.DirEntry[str]]:
        if not self.runs_dir.is_dir():
            return []
        with os.scandir(self.runs_dir) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def states(self, ids: Iterable[str], retries: int) -> dict[str, State]:
        """The state of each run. Who may not write here has the file server's time guessed by his own clock."""

        @lru_cache(maxsize=1)
        def now() -> float:
            try:
                return self.clock()
            except OSError:
                return time.time()

        return {id: self.folder(id).state(retries, now) for id in ids}

    def clock(self) -> float:
        """The time by the file server's clock, in seconds."""
        return file_clock(self.root)

    def request_cancel(self) -> None:
        """Ask whoever executes runs of this sweep, anywhere, to save and stop."""
        write_atomic(self.root / CANCEL, uuid.uuid4().hex.encode())

    def cancel_mark(self) -> tuple[int, bytes] | None:
        """Identify the last `request_cancel`: a launch is cancelled when this changes while it works."""
        return cancel_mark(self.root / CANCEL)


def _is_run_folder(entry: os.DirEntry[str]) -> bool:
    return is_run_id(entry.name) and entry.is_dir(follow_symlinks=False)


def _holds_run(entry: os.DirEntry[str]) -> bool:
    """Decide whether a folder holds a run, or no more than one that was killed at once leaves."""
    names = os.listdir(entry.path)
    return RUN in names or all(leases.is_lease(name) for name in names)
