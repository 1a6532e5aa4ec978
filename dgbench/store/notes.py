"""Notes in a run's folder: how it finished, attempts that failed or were killed, work that was lost.

failed-0001.json  failed-0002.final.json  killed-0003.json  forgiven-0004.json  lost-0001.json
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
"""How many kills from outside use up no retry; further ones do, for what has a run killed may be the run itself."""

UNMENDED = "not tried again by itself: mend that, then `dgbench sweep retry`"
"""What is said of a run whose failure is final."""

_FAILED = re.compile(r"(?P<kind>failed|killed)-(?P<number>\d+)(?P<final>\.final)?\.json")
_SUMMARY = {"records": int, "sha256": str, "fingerprint": str, "versions": dict, "commit": str, "sources": dict}
"""Field of `done` -> its type."""
_LOST = re.compile(r"lost-(?P<number>\d+)\.json")


@dataclass(frozen=True)
class Failures:
    """The failures of a run that count, by the names of their files."""

    files: tuple[str, ...]
    """Oldest first."""
    own: int
    """How many the run has caused itself."""
    kills: int
    """How many came from outside."""
    final: bool
    """Whether one of them is such that trying again can't mend it."""

    @staticmethod
    def among(names: Iterable[str]) -> Failures:
        """Find those among the names in a run's folder."""
        found = _matches(names, _FAILED)
        kills = sum(match["kind"] == "killed" for match in found)
        final = any(match["final"] for match in found)
        return Failures(tuple(match[0] for match in found), len(found) - kills, kills, final)

    def exhausted(self, retries: int) -> bool:
        """Decide whether the run has failed for good, if it may fail `retries` times and be tried again."""
        return self.final or self.own + max(0, self.kills - FREE_KILLS) > retries

    @property
    def attempts(self) -> set[int]:
        """List the numbers of the attempts that failed."""
        return {int(match["number"]) for match in _matches(self.files, _FAILED)}

    def outlook(self, retries: int | None) -> str:
        """Describe whether there will be another attempt; empty where `retries` is None."""
        if self.final:
            return UNMENDED
        if self.files[-1].startswith("killed"):
            return f"killed {self.kills} times, of which {FREE_KILLS} use up no retry"
        return "" if retries is None else f"{self.own} of {retries + 1} attempts"


def write_failure(folder: Path, info: Mapping[str, Any], number: int, *, final: bool, killed: bool) -> None:
    """Write the note on a failed attempt, as `RunFolder.fail` says."""
    name = f"killed-{number:04d}.json" if killed else f"failed-{number:04d}{'.final' if final else ''}.json"
    write_json(folder / name, {"attempt": number, **info})


def clear_failures(folder: Path, failures: Failures) -> None:
    """Rename notes on failures so that they no longer count."""
    for name in failures.files:
        (folder / name).rename(folder / re.sub("^[a-z]+", "forgiven", name))


def write_restart(folder: Path, names: Iterable[str], info: Mapping[str, Any]) -> None:
    """Write a note on lost work, beside those among `names`."""
    found = _matches(names, _LOST)
    write_json(folder / f"lost-{int(found[-1]['number']) + 1 if found else 1:04d}.json", info)


def restart_notes(names: Iterable[str]) -> list[str]:
    """List the notes on lost work among the names in a run's folder, oldest first."""
    return [match[0] for match in _matches(names, _LOST)]


def read_summary(done: Path) -> dict[str, Any] | None:
    """Read how a run finished: None if there is no such file; raise `CorruptFile` if it is damaged.

    What an earlier version didn't say is empty.
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
    """Read a note, which must have `field`; the damage stands in `field` if there is any."""
    try:
        note = read_object(path)
    except (CorruptFile, FileNotFoundError) as error:
        note = {field: str(error)}
    return {field: f"{path} is damaged: it lacks {field!r}", "log": "", **note}


def _matches(names: Iterable[str], pattern: re.Pattern[str]) -> list[re.Match[str]]:
    found = [match for name in names if (match := pattern.fullmatch(name))]
    return sorted(found, key=lambda match: int(match["number"]))
