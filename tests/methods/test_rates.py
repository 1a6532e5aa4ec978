"""Learning rates of a method's own, beside the setting's schedule."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from dgbench.algorithms.erm import ERM
from dgbench.core.setting import setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import build_network


class Halved(ERM):
    """ERM whose rates halve from step 2 on."""

    def rate_factor(self, optimizer: Optimizer) -> float:
        assert optimizer is self.optimizer
        return 1.0 if self.step < 2 else 0.5


def rates(cls: type[ERM], schedule: str) -> list[float]:
    """The learning rate that the optimizer used in each of four steps."""
    torch.manual_seed(0)
    how = setting(backbone="MLP", steps=4, schedule=schedule)
    task, batch = Task((3,), 2, ((4, 4),)), Batch(torch.randn(4, 3), torch.arange(4) % 2, torch.arange(4), 0)
    algorithm, found = cls(build_network((3,), 2, how), cls.Hparams(lr=0.1), task, how), []
    for step in range(4):
        algorithm.step = step
        algorithm.update([batch])
        found.append(float(algorithm.optimizer.param_groups[0]["lr"]))
    return found


def test_a_methods_own_factor_multiplies_the_settings_schedule() -> None:
    for schedule in ("constant", "cosine"):
        plain, own = rates(ERM, schedule), rates(Halved, schedule)
        assert own == [plain[0], plain[1], plain[2] / 2, plain[3] / 2]
