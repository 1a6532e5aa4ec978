"""Write and read `search.json`: the brackets of a sweep that drops runs on the way.

The file stands beside the plan as long as the sweep is searched by successive halving. From it and from the names of
files in the runs' folders (`run_folder.RunFolder.scores`) every process finds the same runs dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from dgbench.core.halving import HALVING, Bracket
from dgbench.core.plain import fields_of, from_plain
from dgbench.core.run import is_run_id
from dgbench.store.files import reading_sweep_json, write_atomic

FILE = "search.json"
"""Name of the file in the sweep's folder."""
FORMAT = 1
"""Version of the file's format."""


def write_search(root: Path, brackets: Sequence[Bracket]) -> None:
    """Write the brackets of a sweep to its folder `root`, or remove those of before if there are none now."""
    if not brackets:
        (root / FILE).unlink(missing_ok=True)
        return
    content = {"format": FORMAT, "search": HALVING, "brackets": [fields_of(bracket) for bracket in brackets]}
    write_atomic(root / FILE, orjson.dumps(content))


def read_search(root: Path) -> tuple[Bracket, ...]:
    """Read the brackets of a sweep's folder; none where every draw is trained to its end.

    Raises:
        UserError: The file has another format, or it is damaged.
    """
    if not (root / FILE).exists():
        return ()
    with reading_sweep_json(root, FILE, FORMAT, "`dgbench sweep retry` writes it anew") as data:
        brackets = tuple(from_plain(Bracket, bracket) for bracket in data["brackets"])
        for id in (id for bracket in brackets for id in (*bracket.ids, *bracket.whole)):
            if not is_run_id(id):
                raise ValueError(f"{id!r} is not the id of a run")
    return brackets


class Search:
    """The brackets of a sweep, given or as its folder holds them now; another launch may change that file."""

    def __init__(self, root: Path, brackets: Sequence[Bracket] | None) -> None:
        """Open the search of a sweep.

        Args:
            root: The sweep's folder.
            brackets: The brackets of a sweep that was just planned; None: read them from the folder.
        """
        self._root = root
        self._brackets = tuple(brackets or ())
        self._read: tuple[int, int] | None = None
        """Date and size of the file that was read; None: no file."""
        self._given = brackets is not None
        self._of = _by_id(self._brackets)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """Return the brackets; none where every draw is trained to its end."""
        if not self._given:
            try:
                found = os.stat(self._root / FILE)  # once a look
                now = (found.st_mtime_ns, found.st_size)
            except OSError:
                now = None
            if now != self._read:
                self._brackets, self._read = read_search(self._root), now
                self._of = _by_id(self._brackets)
        return self._brackets

    def of(self, ids: Iterable[str]) -> list[Bracket]:
        """Return the brackets that decide on some of these runs."""
        if not self.brackets:
            return []
        return list({id(found): found for run in ids if (found := self._of.get(run))}.values())


def _by_id(brackets: Iterable[Bracket]) -> dict[str, Bracket]:
    return {run: bracket for bracket in brackets for run in bracket.ids}
