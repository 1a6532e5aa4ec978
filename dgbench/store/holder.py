"""Describe the holder of a lease, and judge from its signs of life whether it is still at work.

On the holder's own machine its process is looked up. Elsewhere the age of its last sign of life decides, which is the
modification time of the lease's file. It is read twice, two beats apart, so that neither a slow file server nor a
cached time has a working holder judged dead. The time after which it counts as gone stands in the lease.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from dgbench.store.process import Process

BEAT = 3.0
"""Seconds between two signs of life."""
TTL = 60.0
"""Seconds without a sign of life after which a process on another machine counts as gone."""
TTL_OF_NETWORKS = 180.0
"""The same on file systems whose clients cache times of files, for up to a minute by default."""
_CACHING = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|fuse\..*")
"""Types of such file systems, as /proc/self/mountinfo names them."""

WORKING = float("inf")
"""Answer of `judge` for a holder at work."""
GONE = 0.0
"""Answer of `judge` for a holder that is gone."""


@dataclass(frozen=True)
class Holder:
    """The process that claimed a lease, as the lease's file describes it."""

    process: Process
    engine: str = ""
    """The task of a cluster that it belongs to, such as `slurm:12_3`; empty if none."""
    beat: float = BEAT
    """Seconds between its signs of life."""
    ttl: float | None = None
    """Seconds without a sign of life after which it counts as gone; None in leases of earlier versions."""

    def to_json(self) -> bytes:
        """Return the content of its lease."""
        own = {"engine": self.engine, "beat": self.beat, "ttl": self.ttl}
        return orjson.dumps(asdict(self.process) | own)


def read_holder(path: Path) -> Holder | None:
    """Read the holder of a lease; None if the file is gone or can't be parsed, so that its age alone decides."""
    try:
        fields = orjson.loads(path.read_bytes())
        process = Process(str(fields["host"]), str(fields["boot"]), int(fields["pid"]), int(fields["started"]))
        ttl = fields.get("ttl")
        beat = float(fields.get("beat", BEAT))
        return Holder(process, str(fields.get("engine", "")), beat, None if ttl is None else float(ttl))
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Looks:
    """The last signs of life that this process has seen of holders on other machines."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}
        """Lease -> modification time in nanoseconds, and the time by `time.monotonic` at which it was first seen."""

    def wait(self, path: Path, sign: int, apart: float) -> float:
        """Return the seconds until another look may judge a holder that is silent; 0 if this is the second look.

        Args:
            path: Its lease.
            sign: Modification time of the lease, in nanoseconds.
            apart: Seconds between the two looks; more than between two signs of life.
        """
        now = time.monotonic()
        before = self._seen.get(path)
        if before is None or before[0] != sign:
            self._seen[path] = (sign, now)
            return apart
        return max(GONE, before[1] + apart - now)


def judge(path: Path, ttl: float, now: Callable[[], float], looks: Looks) -> float:
    """Judge the holder of a lease that is not released.

    A sign of life that is dated in the future by more than the time to live does not count: only the file server's
    clock dates signs, so the file was copied or its date was set, and it would block the run until that date.

    Args:
        path: The lease.
        ttl: Time to live of holders whose leases name none, in seconds.
        now: Returns the file server's time in seconds; called only if age decides.
        looks: The signs of life seen before.

    Returns:
        `WORKING`, `GONE`, or, for a holder that is silent for too long, the seconds until a second look may find it
        gone.
    """
    # The file is opened and read before its time is asked: NFS clients ask the server for news when a file is opened.
    holder = read_holder(path)
    alive = holder.process.alive() if holder else None
    if alive is not None:
        return WORKING if alive else GONE
    try:
        found = path.stat()
    except FileNotFoundError:
        return GONE
    limit = holder.ttl if holder and holder.ttl is not None else ttl
    if abs(now() - found.st_mtime) <= limit:
        return WORKING
    # Two looks that are one beat apart may both lie between two signs of a holder at work.
    return looks.wait(path, found.st_mtime_ns, 2 * (holder.beat if holder else BEAT))


def is_held(path: Path, ttl: float, now: Callable[[], float], looks: Looks | None = None) -> bool:
    """Return whether the holder of a lease seems to be at work; for the arguments see `judge`.

    A holder that is silent for too long seems gone at the first look already. Claims make sure by a second one.
    """
    return judge(path, ttl, now, looks or Looks()) == WORKING


@lru_cache(maxsize=64)
def default_ttl(folder: Path) -> float:
    """Return the time to live of leases in a folder by the type of its file system, in seconds."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not on Linux
        return TTL
    place = os.path.realpath(folder)
    kinds: dict[str, str] = {}  # a later mount covers an earlier one at the same place
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        kinds[point] = after.split()[0]
    around = [point for point in kinds if point == "/" or place == point or place.startswith(f"{point}/")]
    kind = kinds[max(around, key=len)] if around else ""
    return TTL_OF_NETWORKS if _CACHING.fullmatch(kind) else TTL
