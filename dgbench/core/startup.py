"""Answer Ctrl-C in the first moments of a command, while its imports still run and no handler is installed."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended, as shells give it."""


def guard_imports() -> None:
    """Make Ctrl-C end this process with one line instead of a traceback from an import, until `end_guard`."""
    # A handler that someone else installed is kept: nohup and background shells ignore SIGINT, and so must we.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def end_guard() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT: print one line and exit."""
    os.write(2, b"dgbench: interrupted\n")
    # No work has begun that could be left half-done. `os._exit` skips the unwinding of half-finished imports, whose
    # errors would be printed; `os.write` above because buffered writes are not safe in a signal handler.
    os._exit(INTERRUPTED)
