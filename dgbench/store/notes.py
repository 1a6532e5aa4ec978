"""Write and read notes in a run's folder: how it finished, attempts that failed or were killed, work that was lost.

Files: `failed-0001.json`, `failed-0002.final.json`, `killed-0003.json`, `forgiven-0004.json`, `lost-0001.json`,
`rung-00000300-0.8125.json`. Names say all that the run's state depends on, so states are found without opening a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgbench.store.files import making_sense_of, read_object, write_json
from dgbench.store.sealed import CorruptFile

FREE_KILLS = 3
"""Kills from outside that use up no retry. Further ones do, since a run that is killed again and again may be the cause
itself, by the memory it takes.
"""

UNMENDED = "not tried again by itself: mend that, then `dgbench sweep retry`"
"""Outlook of a run whose failure is final, for messages."""

_FAILED = re.compile(r"(?P<kind>failed|killed)-(?P<number>\d+)(?P<final>\.final)?\.json")
_SUMMARY = {"records": int, "sha256": str, "fingerprint": str, "versions": dict, "commit": str, "sources": dict}
"""Field of `done` -> its type."""
_LOST = re.compile(r"lost-(?P<number>\d+)\.json")
_RUNG = re.compile(r"rung-(?P<number>\d{8,})-(?P<score>-?[0-9][0-9.e+-]*|-inf)\.json")


@dataclass(frozen=True)
class Failures:
    """The failures of a run that count, read from the names of their files."""

    files: tuple[str, ...]
    """File names, oldest first."""
    own: int
    """Number of failures that the run caused itself."""
    kills: int
    """Number of attempts that were killed from outside."""
    final: bool
    """Whether another attempt can't mend one of them."""

    @staticmethod
    def among(names: Iterable[str]) -> Failures:
        """Find the failures among the names in a run's folder."""
        found = _matches(names, _FAILED)
        kills = sum(match["kind"] == "killed" for match in found)
        final = any(match["final"] for match in found)
        return Failures(tuple(match[0] for match in found), len(found) - kills, kills, final)

    def exhausted(self, retries: int) -> bool:
        """Return whether the run has failed for good, if it may fail `retries` times and be tried again."""
        return self.final or self.own + max(0, self.kills - FREE_KILLS) > retries

    @property
    def attempts(self) -> set[int]:
        """Numbers of the attempts that failed."""
        return {int(match["number"]) for match in _matches(self.files, _FAILED)}

    def outlook(self, retries: int | None) -> str:
        """Return words on the chance of another attempt; empty if `retries` is None and none is ruled out."""
        if self.final:
            return UNMENDED
        if self.files[-1].startswith("killed"):
            return f"killed {self.kills} times, of which {FREE_KILLS} use up no retry"
        return "" if retries is None else f"{self.own} of {retries + 1} attempts"


def write_failure(folder: Path, info: Mapping[str, Any], number: int, *, final: bool, killed: bool) -> None:
    """Write the note on a failed attempt; for the arguments see `RunFolder.fail`."""
    name = f"killed-{number:04d}.json" if killed else f"failed-{number:04d}{'.final' if final else ''}.json"
    write_json(folder / name, {"attempt": number, **info})


def clear_failures(folder: Path, failures: Failures) -> None:
    """Rename the notes on failures to `forgiven-...`, which no longer count."""
    for name in failures.files:
        (folder / name).rename(folder / re.sub("^[a-z]+", "forgiven", name))


def write_restart(folder: Path, names: Iterable[str], info: Mapping[str, Any]) -> None:
    """Write the next note on lost work.

    Args:
        folder: The run's folder.
        names: The names in it.
        info: `why`, `log`.
    """
    found = _matches(names, _LOST)
    write_json(folder / f"lost-{int(found[-1]['number']) + 1 if found else 1:04d}.json", info)


def restart_notes(names: Iterable[str]) -> list[str]:
    """Return the names of the notes on lost work, oldest first."""
    return [match[0] for match in _matches(names, _LOST)]


def was_restarted(names: Iterable[str]) -> bool:
    """Return whether there is a note on lost work among the names in a run's folder."""
    return "lost-" in " ".join(names)  # no other name contains it, and this is the fastest way


def rung_name(step: int, score: float) -> str:
    """Return the name of the note that a run writes at a rung of a search: runs are ranked without opening a file."""
    return f"rung-{step:08d}-{score!r}.json"  # the shortest text that reads back to the same number


def rungs(names: Iterable[str]) -> dict[int, tuple[float, str]]:
    """Return step -> (score, name of the note) of the rungs that a run has reached, by ascending step."""
    return {int(match["number"]): (float(match["score"]), match[0]) for match in _matches(names, _RUNG)}


def read_summary(done: str) -> dict[str, Any] | None:
    """Read the summary of a finished run from its `done`; None if there is no such file.

    Fields that an earlier version did not write are empty.

    Raises:
        CorruptFile: The file is damaged.
    """
    try:
        summary = {"fingerprint": "", "versions": {}, "commit": "", "sources": {}, **read_object(done)}
    except FileNotFoundError:
        return None
    with making_sense_of(done):
        for name, kind in _SUMMARY.items():
            if not isinstance(summary[name], kind):
                raise TypeError(f"{name} is {summary[name]!r}")
    return summary


def read_note(path: Path, field: str) -> dict[str, Any]:
    """Read a note; if it is damaged or lacks `field`, `field` holds the message that says so."""
    try:
        note = read_object(path)
    except (CorruptFile, FileNotFoundError) as error:
        note = {field: str(error)}
    return {field: f"{path} is damaged: it lacks {field!r}", "log": "", **note}


def _matches(names: Iterable[str], pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """Return the matches of `pattern` among `names`, by ascending number."""
    found = [match for name in names if (match := pattern.fullmatch(name))]
    return sorted(found, key=lambda match: int(match["number"]))
