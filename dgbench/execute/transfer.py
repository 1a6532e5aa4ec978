"""Copy minibatches to the device that computes, on a GPU one ahead of the step that reads them.

On a GPU the copies run in a stream of their own, while the step before computes. Nothing else changes: steps see the
same minibatches in the same order. One that was copied ahead when a run stops is dropped, since the resumed run makes
it again (`data.views`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dgbench.data.views import Minibatch


def on_device(minibatches: Iterable[Minibatch], device: torch.device) -> Iterator[Minibatch]:
    """Yield minibatches with their tensors on a device.

    Args:
        minibatches: On the CPU. For a GPU of NVIDIA one more is taken than was asked for, until they end.
        device: Where steps compute; for the CPU the minibatches are yielded as they are.
    """
    if device.type == "cpu":
        return iter(minibatches)
    return _one_ahead(minibatches, SideStream(device)) if device.type == "cuda" else _moved(minibatches, device)


def _moved(minibatches: Iterable[Minibatch], device: torch.device) -> Iterator[Minibatch]:
    """Copy each minibatch when its step needs it."""
    for minibatch in minibatches:
        yield [(x.to(device), y.to(device), positions.to(device), number) for x, y, positions, number in minibatch]


def _one_ahead(minibatches: Iterable[Minibatch], side: SideStream) -> Iterator[Minibatch]:
    """Begin the copy of each minibatch before the one ahead of it is handed on."""
    waiting: tuple[Minibatch, torch.cuda.Event] | None = None
    for minibatch in minibatches:
        sent = side.send(minibatch)
        if waiting:
            yield side.receive(*waiting)
        waiting = sent
    if waiting:
        yield side.receive(*waiting)


class SideStream:
    """A stream of a GPU in which minibatches are copied while the current stream computes.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, minibatch: Minibatch) -> tuple[Minibatch, torch.cuda.Event]:
        """Begin to copy a minibatch; return it on the GPU, not to be read yet, and the event that its copy is done."""
        with torch.cuda.stream(self.stream):
            sent = [(*map(self._copied, tensors), number) for *tensors, number in minibatch]
        return sent, self.stream.record_event()  # type: ignore[return-value]

    def receive(self, minibatch: Minibatch, copied: torch.cuda.Event) -> Minibatch:
        """Let the current stream wait for a copy, and return the minibatch; the host doesn't wait.

        Args:
            minibatch: What `send` returned.
            copied: Its event.
        """
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        for x, y, positions, _ in minibatch:
            for tensor in (x, y, positions):
                # The memory is the side stream's, which would use it again while the step still reads it.
                tensor.record_stream(computing)
        return minibatch

    def _copied(self, tensor: Tensor) -> Tensor:
        """Begin the copy of a tensor; only from pinned memory does the host not wait for it."""
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self.device, non_blocking=True)
