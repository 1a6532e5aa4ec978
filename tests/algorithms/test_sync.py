"""A step must not wait for the device: no value of a tensor may be read on the host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from dgbench.algorithm import Algorithm
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.fish import Fish
from dgbench.algorithms.hgp import HGP
from dgbench.algorithms.sam import SAM
from dgbench.algorithms.vrex import VREx


class Reads(TorchDispatchMode):
    """Notes the operations whose result or shape depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"):
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls", [ERM, VREx, SAM, Fish, HGP])
def test_a_step_reads_no_value(toy: SimpleNamespace, cls: type[Algorithm], norm: str) -> None:
    algorithm = toy.make(cls, norm=norm, optimizer="sgd", dropout=0.5)
    data = toy.batches(0)
    with Reads() as reads:
        logged = algorithm.update(data)
    assert not reads.found
    assert all(value.ndim == 0 and not value.requires_grad for value in logged.values())


def test_a_read_would_be_seen(toy: SimpleNamespace) -> None:
    with Reads() as reads:
        toy.batches(0)[0].x.sum().item()
    assert reads.found == ["aten::_local_scalar_dense"]
