"""Answer Ctrl-C in the first moments of a command, while its modules are still imported and nothing else would."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended, as a shell gives it."""


def guard_imports() -> None:
    """Have Ctrl-C end this process in a word, instead of a traceback from wherever an import is; until `end_guard`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def end_guard() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"dgbench: interrupted\n")
    os._exit(INTERRUPTED)  # nothing is begun that could be left half-done, and imports need not be unwound
