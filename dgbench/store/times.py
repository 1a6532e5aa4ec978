"""Read `times.jsonl` of a run's folder: the duration and the memory of each of its attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

TIMES = "times.jsonl"
"""Name of the file."""


def read_times(folder: Path) -> list[dict[str, Any]]:
    """Return a run's attempts, in their order; those before a line that can't be read, and none without the file.

    They are notes for estimates, so damage is no reason to stop.

    Args:
        folder: The run's.
    """
    found: list[dict[str, Any]] = []
    try:
        for line in (folder / TIMES).read_bytes().splitlines():
            attempt = orjson.loads(line)
            if not isinstance(attempt, dict):
                break
            found.append(attempt)
    except (OSError, ValueError):
        pass
    return found
