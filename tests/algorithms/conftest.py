"""Toys for the tests of update rules: a tiny network in float64, unequal minibatches, and naive counterparts."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from dgbench.core.setting import setting
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import Network

INPUTS, CLASSES, SIZES = 6, 4, (5, 3, 8)
IMAGE = (2, 6, 6)
EXAMPLES = 20
"""Training examples of a domain."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(
    cls: type[Algorithm],
    *,
    norm: str = "none",
    optimizer: str = "adam",
    nonlinear: bool = False,
    dropout: float = 0.0,
    domains: int = len(SIZES),
    images: bool = False,
    steps: int = 100,
    how: Mapping[str, Any] | None = None,
    **hparams: Any,
) -> Algorithm:
    """An algorithm on a network of one hidden layer, whose batch norm is `none`, `frozen` or `live`.

    With `images`, inputs are 2 x 6 x 6 and the network has two stages of 3 x 3 convolutions. `how`: further settings.
    """
    options = setting(
        batch_norm="live" if norm == "live" else "frozen",
        optimizer=optimizer,
        nonlinear_classifier=nonlinear,
        steps=steps,
        backbone="SmallCNN" if images else "MLP",
        **(how or {}),
    )
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width_in, width in ((IMAGE[0], 4), (4, 8)) if images else ((INPUTS, 8),):
        layers.append(nn.Conv2d(width_in, width, 3) if images else nn.Linear(width_in, width))
        if norm != "none":
            layers.append(nn.BatchNorm2d(width) if images else nn.BatchNorm1d(width))
        layers.append(nn.Tanh())
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if images else []
    shape = IMAGE if images else (INPUTS,)
    network = Network(nn.Sequential(*layers), 8, CLASSES, options, dropout)
    network.freeze(options.freeze)
    values = cls.Hparams(**{"lr": 1e-2, "weight_decay": 1e-2, **hparams})
    algorithm = cls(network, values, Task(shape, CLASSES, ((EXAMPLES // CLASSES,) * CLASSES,) * domains), options)
    return algorithm.train()


def batches(
    step: int, sizes: Sequence[int] = SIZES, shape: Sequence[int] = (INPUTS,), taught: bool = False
) -> list[Batch]:
    """One minibatch a domain, each domain with a distribution of its own; a teacher's logits if asked for."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        Batch(
            torch.randn(n, *shape, generator=generator) * (1 + 0.3 * i) + 0.5 * i,
            torch.randint(CLASSES, (n,), generator=generator),
            torch.randint(EXAMPLES, (n,), generator=generator),
            i,
            torch.randn(n, CLASSES, generator=generator) * 3 if taught else None,
        )
        for i, n in enumerate(sizes)
    ]


def take(algorithm: Algorithm, step: int) -> dict[str, float]:
    """One step of the loop, with the seeding that the engine does."""
    torch.manual_seed(step)
    algorithm.step = step
    logged = algorithm.update(given(algorithm, step))
    hanging = [name for name, value in logged.items() if value.requires_grad]
    assert not hanging, f"the graph of a step hangs on what it logs: {hanging}"
    return {name: value.item() for name, value in logged.items()}


def given(algorithm: Algorithm, step: int) -> list[Batch]:
    """The minibatches of a step, as the algorithm needs them."""
    sizes = SIZES[: algorithm.task.num_domains]
    return batches(step, sizes, algorithm.task.input_shape, algorithm.card.taught)


def naive(algorithm: Algorithm) -> SimpleNamespace:
    """A copy of the network, and an optimizer made by hand."""
    network = copy.deepcopy(algorithm.network)
    return SimpleNamespace(network=network, optimizer=hand_made(algorithm, network))


def hand_made(algorithm: Algorithm, network: nn.Module) -> torch.optim.Optimizer:
    decay, lr = algorithm.hparams.weight_decay, algorithm.hparams.lr
    if algorithm.setting.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(network.parameters(), lr=lr, weight_decay=decay)


Logged = Mapping[str, Tensor | float]
Reference = Callable[[SimpleNamespace, list[Batch], int], Logged | None]
"""A step on `other.network`, by hand. May return what the method shall log, and put what it shall remember beside its
network, by name, into `other.remembered`."""
Logs = Callable[[list[float]], Logged]


def agrees(algorithm: Algorithm, reference: Reference, steps: int = 3, logs: Logs | None = None) -> None:
    """The algorithm's network, what it logs and what it remembers equal the reference's after each step, to 1e-12.

    What shall be logged the reference returns, or `logs` makes of the losses that it differentiates, in their order.
    Without either, the logged loss is one of these.
    """
    other = naive(algorithm)
    other.remembered = {}
    for step in range(steps):
        logged = take(algorithm, step)
        torch.manual_seed(step)
        with differentiated() as losses:
            shall = reference(other, given(algorithm, step), step)
        _same(algorithm.network.state_dict(), other.network.state_dict(), f"after step {step}")
        shall = logs(losses) if logs else shall
        if shall is not None:
            assert shall
            _same(shall, logged, f"logged in step {step}")
        elif "loss" in logged:
            off = min(abs(logged["loss"] - loss) for loss in losses)
            assert off <= 1e-12, f"the loss logged in step {step} is none of the reference's, by {off:.1e}"
        known = {name: tensor for name, tensor in algorithm.state_dict().items() if name in other.remembered}
        assert known.keys() == other.remembered.keys()
        _same(known, other.remembered, f"remembered after step {step}")


def _same(found: Mapping[str, Any], expected: Mapping[str, Any], when: str) -> None:
    for name, value in found.items():
        difference = (torch.as_tensor(value) - torch.as_tensor(expected[name])).abs().max().item()
        assert difference <= 1e-12, f"{name} is off by {difference:.1e} {when}"


@contextmanager
def differentiated() -> Iterator[list[float]]:
    """Within the block, the values of all scalars whose gradients are taken by `backward` or `autograd.grad`."""
    found: list[float] = []
    backward, grad = torch.Tensor.backward, torch.autograd.grad

    def note(outputs: Any) -> None:
        scalars = [outputs] if isinstance(outputs, Tensor) else outputs
        found.extend(scalar.item() for scalar in scalars if scalar.numel() == 1)

    def noted_backward(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        note(self)
        return backward(self, *args, **kwargs)

    def noted_grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        note(outputs)
        return grad(outputs, *args, **kwargs)

    with patch.object(torch.Tensor, "backward", noted_backward), patch.object(torch.autograd, "grad", noted_grad):
        yield found


def resumes(cls: type[Algorithm], steps: int = 6, **options: Any) -> None:
    """Saving in the middle and loading into a fresh object changes no bit of what follows."""
    whole = make(cls, **options)
    for step in range(steps):
        if step == steps // 2:
            file = io.BytesIO()
            torch.save(whole.training_state(), file)
        take(whole, step)
    file.seek(0)
    resumed = make(cls, **options)
    resumed.load_training_state(torch.load(file, weights_only=True))
    for step in range(steps // 2, steps):
        take(resumed, step)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.fixture
def toy() -> SimpleNamespace:
    return SimpleNamespace(
        make=make, batches=batches, take=take, naive=naive, hand_made=hand_made, agrees=agrees, resumes=resumes
    )


@pytest.fixture(params=["none", "frozen", "live"])
def norm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["adam", "sgd"])
def optimizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)
