"""Makes whatever asks for a network fail, in this process: the test that asks, or as where there is none."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NoReturn

import pytest


def cut_off(patch: pytest.MonkeyPatch) -> None:
    """From now on every look-up and every connection fails the test that makes it."""

    def refuse(*asked: Any) -> NoReturn:
        pytest.fail(f"the network was asked: {asked[:2]}")

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, refuse)
    patch.setattr(socket, "getaddrinfo", refuse)


def unplugged(patch: pytest.MonkeyPatch) -> None:
    """From now on every look-up and every connection ends as on a machine that has no network."""

    def fail(*asked: Any) -> NoReturn:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, fail)
    patch.setattr(socket, "getaddrinfo", fail)
