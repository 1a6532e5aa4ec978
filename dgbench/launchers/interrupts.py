"""Signals that a loop answers when it is ready to, instead of wherever they interrupt it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any


class SignalSocket:
    """Something to wait for beside files: readable once one of some signals came. Only the main thread hears any."""

    def __init__(self, numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> None:
        """Install `handler` for the signals `numbers`, until `close` restores the former handlers."""
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # A handler alone does not do: a signal that comes just before the wait begins would be noticed after it.
            self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            self._old = {number: signal.signal(number, handler) for number in numbers}

    def fileno(self) -> int:
        """Return the file descriptor to wait for."""
        return self._read.fileno()

    def clear(self) -> None:
        """Make it unreadable again."""
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
    """Notes SIGINT and SIGTERM instead of dying of them; the third raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        """The first signal that came."""
        super().__init__((signal.SIGINT, signal.SIGTERM), self._note)

    def __enter__(self) -> Interrupts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name
        if self.count > 2:  # not even the server's start, or a dead disk, holds who insists
            raise KeyboardInterrupt
