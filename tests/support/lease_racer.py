"""One claimant of a race: lease_racer.py ROOT MODE; MODE `careless` drops O_EXCL, to see that the race would tell.

Reads from its input when to begin, and lives until its input ends. Claimants take a moment between looking and
claiming, so that the race is one. In `hold` and `careless`, all claimants try each folder at the same moment and keep
what they get; in `cycle`, they claim and release the same few folders again and again.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dgbench.store.lease import claim

APART = 0.03

listdir = os.listdir


def note(path: Path, text: str) -> None:
    """One line, whole even if several processes write at once."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (text + "\n").encode())
    os.close(file)


def looked_at_leisure(folder: Path) -> list[str]:
    """What is in the folder, some time ago."""
    names = listdir(folder)
    time.sleep(0.002)
    return names


def hold(folders: list[Path], begin: float) -> None:
    """Every folder once, at its moment."""
    for i, folder in enumerate(folders):
        time.sleep(max(0.0, begin + APART * i - time.time()))
        lease = claim(folder, folder / "done", folder / "cancel")
        if lease:
            note(folder / "claimed.txt", str(lease.number))


def cycle(folders: list[Path], begin: float) -> None:
    """For a second and a half."""
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + 1.5:
        for folder in folders:
            lease = claim(folder, folder / "done", folder / "cancel")
            if lease:
                note(folder / "claimed.txt", f"begin {lease.number}")
                time.sleep(0.0005)
                note(folder / "claimed.txt", f"end {lease.number}")
                lease.release()


if __name__ == "__main__":
    root, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "careless":
        real = os.open
        os.open = lambda path, flags, mode=0o777: real(path, flags & ~os.O_EXCL, mode)  # type: ignore[assignment]
    print("ready", flush=True)
    begin = float(input())
    folders = sorted(root.iterdir())
    os.listdir = looked_at_leisure  # type: ignore[assignment]
    (cycle if mode == "cycle" else hold)(folders, begin)
    print("finished", flush=True)
    sys.stdin.read()
