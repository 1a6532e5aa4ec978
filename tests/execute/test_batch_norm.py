from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dgbench.execute.batch_norm import inputs_for, measure_statistics
from tests.support.in_process import sweep_of, training_of


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4)).double().train()


def batches(count: int = 3) -> list[Tensor]:
    return [
        torch.randn(n + 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(count)
    ]


def test_statistics_are_the_mean_of_the_batches(module: nn.Module) -> None:
    weights = {name: tensor + 0.1 * i for i, (name, tensor) in enumerate(module.state_dict().items())}
    found = measure_statistics(module, weights, batches())
    hidden = [x @ weights["0.weight"].T + weights["0.bias"] for x in batches()]
    torch.testing.assert_close(found["1.running_mean"], torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(found["1.running_var"], torch.stack([h.var(0) for h in hidden]).mean(0))
    assert found["1.num_batches_tracked"] == 3
    for name in ("0.weight", "1.weight", "3.bias"):
        assert torch.equal(found[name], weights[name])


def test_nothing_of_the_module_or_of_the_weights_changes(module: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in before.items()}
    measure_statistics(module, weights, batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())
    assert module.training
    assert [norm.momentum for norm in module.modules() if isinstance(norm, nn.BatchNorm1d)] == [0.1, 0.1]


def test_frozen_batch_norm_is_left_as_it_is(module: nn.Module) -> None:
    frozen = module[1]
    frozen.eval()
    weights = module.state_dict()
    found = measure_statistics(module, weights, batches())
    assert torch.equal(found["1.running_mean"], weights["1.running_mean"])
    assert not torch.equal(found["3.running_mean"], weights["3.running_mean"])


def unread() -> Iterator[Tensor]:
    raise AssertionError("nothing is measured")
    yield


def test_where_none_is_live_the_weights_stay_as_they_are_and_nothing_is_read(module: nn.Module) -> None:
    module[1].eval()
    module[3].track_running_stats = False
    for without in (module, nn.Linear(2, 2).train()):
        weights = without.state_dict()
        found = measure_statistics(without, weights, unread())
        assert found.keys() == weights.keys()
        assert all(found[name] is tensor for name, tensor in weights.items())
        assert without.training


@pytest.mark.parametrize(("steps", "count"), [(7, 7), (500, 500), (501, 500)])
def test_it_is_measured_on_the_first_minibatches_of_the_run_500_at_most(steps: int, count: int, tmp_path: Path) -> None:
    setting = {"steps": steps, "checkpoint_freq": steps, "backbone": "Linear"}
    sweep = sweep_of(tmp_path, "ERM", setting=setting, hparams={"batch_size": 2})
    training = training_of(sweep, sweep.plan.runs[0])
    found = list(inputs_for(training.algorithm, training.data, training.run))
    assert len(found) == count
    assert {len(x) for x in found} == {2 * len(training.data.train)}


def test_it_is_put_back_when_a_batch_fails(module: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        measure_statistics(module, module.state_dict(), [torch.zeros(2, 5, dtype=torch.float64)])
    assert module.training
    assert module[1].momentum == 0.1


def test_dropout_is_off_while_it_is_measured(module: nn.Module) -> None:
    """The mean of what batch norm gives is its bias, unless some of it is dropped on the way to the next."""
    weights = {**module.state_dict(), "1.bias": torch.arange(1.0, 5.0, dtype=torch.float64)}
    found = measure_statistics(module, weights, batches())
    torch.testing.assert_close(found["3.running_mean"], weights["1.bias"])
