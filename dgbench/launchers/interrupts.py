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


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that mean: save and leave. Batch systems announce the end of a job by any of them."""


class Interrupts(SignalSocket):
    """Note the signals of `STOPS` instead of dying of them; raise KeyboardInterrupt at the third Ctrl-C.

    Used as a context manager, which restores the former handlers. A signal that is ignored stays so, as a shell and
    `nohup` arrange it for jobs in the background.
    """

    def __init__(self) -> None:
        self.name = ""
        """Name of the first signal; empty before."""
        self.insisted = False
        """Whether a second Ctrl-C came. Engines repeat the others by themselves, at the end of a time of grace."""
        self._times = 0
        super().__init__((number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN), self._note)

    def __enter__(self) -> Interrupts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name
        self._times += number == signal.SIGINT
        self.insisted = self._times > 1
        if self._times > 2:  # whoever insists gets out, even of a server that starts or a disk that hangs
            raise KeyboardInterrupt
