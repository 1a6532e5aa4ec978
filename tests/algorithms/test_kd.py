from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms.kd import KD
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from tests.algorithms.conftest import agrees, given, make, resumes


@pytest.mark.parametrize("norm", ["none", "frozen", "live"])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_descends_the_scaled_divergence_from_the_teacher(norm: str, temperature: float) -> None:
    def reference(naive: SimpleNamespace, batches: list[Batch], step: int) -> None:
        x = torch.cat([batch.x for batch in batches])
        total, n = torch.zeros(()), 0
        p = torch.softmax(naive.network(x) / temperature, dim=1)
        for batch in batches:
            assert batch.taught is not None
            q = torch.softmax(batch.taught / temperature, dim=1)
            for row in range(len(batch.y)):
                total = total + (q[row] * (q[row].log() - p[n].log())).sum()
                n += 1
        naive.optimizer.zero_grad()
        (temperature**2 * total / n).backward()
        naive.optimizer.step()

    agrees(make(KD, norm=norm, temperature=temperature), reference)


def test_a_student_that_says_what_its_teacher_says_is_at_rest() -> None:
    algorithm = make(KD, norm="none")
    batches = [batch._replace(taught=algorithm(batch.x).detach() + 7.0) for batch in given(algorithm, 0)]
    loss = algorithm.loss(batches)
    loss.backward()
    assert abs(loss.item()) < 1e-14
    assert max(p.grad.abs().max().item() for p in algorithm.parameters() if p.grad is not None) < 1e-14


def test_labels_are_not_used() -> None:
    algorithm = make(KD)
    batches = given(algorithm, 0)
    wrong = [batch._replace(y=(batch.y + 1) % 4) for batch in batches]
    assert algorithm.loss(batches).item() == algorithm.loss(wrong).item()


def test_at_a_high_temperature_it_is_half_the_squared_distance_of_centred_logits_by_class() -> None:
    """Hinton et al.'s limit: T^2 KL -> sum_k (s_k - t_k)^2 / (2 K), logits centred over the K classes."""
    algorithm = make(KD, temperature=1e5)
    batches = given(algorithm, 0)
    s = torch.cat([algorithm(batch.x) for batch in batches])
    t = torch.cat([batch.taught for batch in batches if batch.taught is not None])
    s, t = s - s.mean(dim=1, keepdim=True), t - t.mean(dim=1, keepdim=True)
    expected = (s - t).square().sum(dim=1).mean() / (2 * 4)
    torch.testing.assert_close(algorithm.loss(batches), expected, rtol=1e-4, atol=0)


def test_resumes() -> None:
    resumes(KD)


def test_no_temperature_is_refused() -> None:
    with pytest.raises(UserError, match="temperature must be above 0, not 0"):
        KD.Hparams(temperature=0.0)
