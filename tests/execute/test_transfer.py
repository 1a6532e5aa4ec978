"""Minibatches that are copied to a GPU one ahead, by a stand-in for the GPU that notes what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.conformance.questions import Reads
from dgbench.data.views import Minibatch, Minibatches
from dgbench.execute import transfer
from dgbench.execute.models import predictor_weights
from dgbench.execute.transfer import SideStream, on_device
from tests.support.in_process import CPU, records_of, sweep_of, train, training_of


def minibatch_of(step: int) -> Minibatch:
    return [(torch.full((2, 3), step), torch.full((2,), step), torch.arange(2), number) for number in (0, 2)]


class Gpu:
    """The functions of `torch.cuda` that copies use, noting what happened in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.copying = False
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Lane(self, "side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Lane(self, "computing"))
        monkeypatch.setattr(torch.cuda, "stream", self.within)
        monkeypatch.setattr(SideStream, "_copied", self.copied)
        monkeypatch.setattr(Tensor, "record_stream", self.recorded)
        self.sent = self.kept = 0

    @contextmanager
    def within(self, lane: Lane) -> Iterator[None]:
        assert lane.name == "side"
        self.copying = True
        yield
        self.copying = False

    def copied(self, tensor: Tensor) -> Tensor:
        assert self.copying, "copies run in the side stream"
        self.sent += 1
        return tensor.clone()

    def recorded(self, lane: Lane) -> None:
        assert lane.name == "computing"
        self.kept += 1


class Lane:
    """A stream."""

    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def record_event(self) -> int:
        assert self.name == "side"
        self.gpu.happened.append(f"copied {self.gpu.sent // 6 - 1}")
        return self.gpu.sent // 6 - 1

    def wait_event(self, event: int) -> None:
        assert self.name == "computing"
        self.gpu.happened.append(f"waits for {event}")


def test_a_gpu_copies_one_minibatch_ahead_and_steps_wait_for_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    source = (minibatch_of(step) for step in range(3))
    for step, minibatch in enumerate(on_device(source, torch.device("cuda"))):
        gpu.happened.append(f"step {step}")
        for (*tensors, number), (*expected, same) in zip(minibatch, minibatch_of(step), strict=True):
            assert number == same
            assert all(torch.equal(one, other) for one, other in zip(tensors, expected, strict=True))
    assert gpu.happened == [
        *("copied 0", "copied 1", "waits for 0", "step 0"),
        *("copied 2", "waits for 1", "step 1"),
        *("waits for 2", "step 2"),
    ]
    assert gpu.kept == gpu.sent == 18, "memory of each tensor is kept until the computing stream has read it"
    assert list(on_device([], torch.device("cuda"))) == []


def test_pinned_memory_is_copied_from_and_other_is_pinned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    asked: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking: asked.append((device.type, non_blocking)))
    for pinned in (False, True):
        monkeypatch.setattr(Tensor, "is_pinned", lambda self, pinned=pinned: pinned)
        SideStream(torch.device("cuda"))._copied(torch.zeros(1))
    assert asked == ["pinned", ("cuda", True), ("cuda", True)]


def test_a_cpu_gets_the_very_minibatches_when_it_asks() -> None:
    made = [minibatch_of(step) for step in range(3)]
    taken = iter(made)
    found = on_device(taken, CPU)
    assert next(found) is made[0]
    assert next(taken) is made[1], "none was taken ahead"
    moved = next(on_device(iter(made), torch.device("meta")))
    assert all(tensor.device.type == "meta" for *tensors, _ in moved for tensor in tensors)


class NoStream:
    """Copies nothing."""

    def send(self, minibatch: Minibatch) -> tuple[Minibatch, None]:
        return minibatch, None

    def receive(self, minibatch: Minibatch, copied: None) -> Minibatch:
        return minibatch


def test_a_run_with_one_ahead_pauses_stops_and_goes_on_as_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (sweep_of(tmp_path / name, "USEFUL", hparams={"useful_share": 0.25}) for name in ("whole", "cut"))
    for run in whole.plan.runs:
        train(training_of(whole, run))
    monkeypatch.setattr(
        "dgbench.execute.loading.on_device", lambda source, device: transfer._one_ahead(source, NoStream())
    )
    for run in cut.plan.runs:
        for stop_after in (1, 5, 9):
            assert train(training_of(cut, run), stop_after)
        assert not train(last := training_of(cut, run))
        assert records_of(last.folder) == records_of(whole.store.folder(run.id))


class Moves(Reads):
    """Records tensors that go to another device, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::_to_copy" and (kwargs or {}).get("device", args[0].device) != args[0].device:
            self.found.append("a copy to another device")
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_the_loop_of_a_run_reads_no_value_and_moves_no_tensor(tmp_path: Path) -> None:
    rows = [f"ERM+{average}" for average in ("SWAD", "SMA", "EMA", "BMA", "IIDMax")]
    sweep = sweep_of(tmp_path, *rows, setting={"clip_norm": 1.0, "warmup_steps": 2, "schedule": "cosine"})
    training = training_of(sweep, sweep.plan.runs[0])
    minibatches = Minibatches(training.data, training.run)
    training.algorithm.train()
    for average in training.averages.values():
        average.begin(predictor_weights(training.algorithm), 20)
    assert len(training.averages) == 5
    with Moves() as seen:
        for step in range(4):
            training._step(step, minibatches[step])
        torch.zeros(1).to("meta")
    assert seen.found == ["a copy to another device"], "mine, and none of the loop's"
