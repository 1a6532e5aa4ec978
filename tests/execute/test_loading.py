"""The number of processes that make minibatches ahead."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from dgbench.execute.loading import loader_processes

PLENTY = 2**34
OF_FLOATS = 3 * 32 * 3 * 224 * 224 * 4
"""Bytes of a minibatch of three domains."""


@pytest.mark.parametrize(
    ("asked", "device", "threads", "free", "expected"),
    [
        (0, "cuda", 16, PLENTY, 0),
        (5, "cpu", 1, PLENTY, 5),
        (None, "cpu", 1, PLENTY, 0),  # its core is the network's
        (None, "cpu", 3, PLENTY, 0),
        (None, "cpu", 4, PLENTY, 1),
        (None, "cpu", 16, PLENTY, 4),
        (None, "cuda", 1, PLENTY, 1),  # the core waits for the GPU
        (None, "cuda", 4, PLENTY, 3),
        (None, "cuda", 64, PLENTY, 8),
        (None, "cuda", 64, 2 * 3 * 5 * OF_FLOATS, 3),
        (None, "cuda", 64, 2**26, 0),  # as Docker gives a container
    ],
)
def test_it_suits_cores_and_shared_memory(
    asked: int | None, device: str, threads: int, free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert loader_processes(asked, OF_FLOATS // 4, torch.device(device), threads) == expected
