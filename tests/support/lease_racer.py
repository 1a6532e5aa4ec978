"""One claimant of a race: lease_racer.py ROOT MODE RACERS; no clock decides any of it.

It begins when it reads a line, and lives until its input ends. In `hold` and `careless` all claimants try each folder
once and keep what they get: none claims before all have looked. In `careless` a claim overwrites what another claimed,
to see that the race would tell. In `cycle` they claim and release the same few folders until each was had often.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dgbench.store.lease import claim

OFTEN = 12

listdir = os.listdir


def note(path: Path, text: str) -> None:
    """One line, whole even if several processes write at once."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (text + "\n").encode())
    os.close(file)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def hold(folders: list[Path], racers: int) -> None:
    """Every folder once, when all have looked at it."""
    for folder in folders:

        def looked_at_by_all(path: Path, folder: Path = folder) -> list[str]:
            names = listdir(path)
            note(folder / "looked.txt", "looked")
            while lines(folder / "looked.txt") < racers:
                time.sleep(0.0005)
            return names

        os.listdir = looked_at_by_all  # type: ignore[assignment]
        lease = claim(folder, folder / "done", folder / "cancel")
        if lease:
            note(folder / "claimed.txt", str(lease.number))


def cycle(folders: list[Path]) -> None:
    """Until each was claimed often by all together."""
    while left := [folder for folder in folders if lines(folder / "claimed.txt") < 2 * OFTEN]:
        for folder in left:
            lease = claim(folder, folder / "done", folder / "cancel")
            if lease:
                note(folder / "claimed.txt", f"begin {lease.number}")
                time.sleep(0.0005)
                note(folder / "claimed.txt", f"end {lease.number}")
                lease.release()


if __name__ == "__main__":
    root, mode, racers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if mode == "careless":
        os.link = os.replace  # type: ignore[assignment]
    print("ready", flush=True)
    input()
    folders = sorted(root.iterdir())
    if mode == "cycle":
        cycle(folders)
    else:
        hold(folders, racers)
    print("finished", flush=True)
    sys.stdin.read()
