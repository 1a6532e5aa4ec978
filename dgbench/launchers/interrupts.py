"""Let a loop answer signals at a place of its own choosing, instead of wherever they interrupt it.

Python runs handlers in the main thread alone. In other threads these classes can be made, and never see a signal.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any


class SignalSocket:
    """A socket that becomes readable when one of some signals comes, to be waited for beside other connections."""

    def __init__(self, numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> None:
        """Install `handler` for the signals `numbers`, until `close` restores the former handlers."""
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # A handler alone is not enough: a signal that comes just before a wait begins would be noticed after it.
            self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            self._old = {number: signal.signal(number, handler) for number in numbers}

    def fileno(self) -> int:
        """Return the file descriptor to wait for."""
        return self._read.fileno()

    def clear(self) -> None:
        """Discard the notes of past signals, so that the socket is not readable until the next."""
        with suppress(BlockingIOError):
            self._read.recv(1 << 16)

    def close(self) -> None:
        """Restore the handlers that were there before."""
        if self._old:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_fd)
        self._read.close()
        self._write.close()


class Interrupts(SignalSocket):
    """Count SIGINT and SIGTERM instead of dying of them; raise KeyboardInterrupt at the third.

    Used as a context manager, which restores the former handlers.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        """Name of the first signal; empty before."""
        super().__init__((signal.SIGINT, signal.SIGTERM), self._note)

    def __enter__(self) -> Interrupts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name
        if self.count > 2:  # whoever insists gets out, even of a server that starts or a disk that hangs
            raise KeyboardInterrupt
