"""Trains a class written for DomainBed as it is, and keeps what it remembers, so that a run can be cut off."""

from __future__ import annotations

import copy
import inspect
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.methods.foreign_state import capture_state, restore_state, stepped
from dgbench.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network

log = logging.getLogger(__name__)


class Inputs(Network):
    """Prepares inputs as DomainBed's data sets do, and is no network: the class makes its own.

    In [0, 1]; images of three channels normalised by ImageNet's mean and deviation.
    """

    def __init__(self, input_shape: Sequence[int], setting: Setting) -> None:
        nn.Module.__init__(self)
        self.normalises = len(input_shape) == 3 and input_shape[0] == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.normalises else ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if setting.channels_last is True else torch.contiguous_format
        self.frozen_batch_norm = False
        self.frozen = []


class Foreign(Algorithm):
    """Whatever the class `foreign` does."""

    foreign: ClassVar[Any]
    Hparams: ClassVar[Any] = dict

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """No network, only what prepares its inputs."""
        return Inputs(input_shape, setting)

    def build(self) -> None:
        """Make the object, as DomainBed's `train` does."""
        seed = torch.initial_seed()  # the run's: torch draws the weights by it, and this has other generators follow
        random.seed(seed)
        np.random.seed(seed % 2**32)
        task = self.task
        self.inner = self.foreign(task.input_shape, task.num_classes, task.num_domains, copy.deepcopy(self.hparams))
        self.inner.to(memory_format=self.network.memory_format)
        self._more = {"unlabeled": None} if accepts(self.inner.update, [], unlabeled=None) else {}
        modules = self.inner.named_modules()  # each under one name: a featurizer is part of a network, too
        self._names = frozenset(
            f"{module_name}.{name}".lstrip(".")
            for module_name, module in modules
            for name in (*module._parameters, *module._buffers)
        )

    def build_optimizers(self) -> None:
        """The class has made its own."""

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Run one `update` of the wrapped class; return its logged values: tensors, or numbers as DomainBed's do."""
        logged: Mapping[str, Tensor | float] = self.inner.update(
            [(batch.x, batch.y) for batch in batches], **self._more
        )
        return logged

    def forward(self, x: Tensor) -> Tensor:
        """What it predicts."""
        logits: Tensor = self.inner.predict(x)
        return logits

    def predictor_tensors(self) -> dict[str, Tensor]:
        """The tensors that it was made with; those that come and go can't be averaged."""
        state = self.inner.state_dict()
        return {f"inner.{name}": tensor for name, tensor in state.items() if name in self._names}

    def trained_tensors(self) -> dict[str, Tensor]:
        """What its optimizers step, and the buffers of the same modules (running statistics of a batch norm).

        Raises `UserError` if it predicts by anything else, such as a mean of weights.
        """
        trained = stepped(self.inner)
        if not self._read_in_prediction() <= trained:
            raise UserError(
                f"{type(self).__name__} predicts by weights that none of its optimizers steps, so an average can't set "
                "the weights that its training goes on from"
            )
        names = set()
        for module_name, module in self.inner.named_modules():
            mine = [name for name, p in module.named_parameters(recurse=False) if p in trained]
            mine += [name for name, _ in module.named_buffers(recurse=False)] if mine else []
            names |= {".".join(filter(None, ("inner", module_name, name))) for name in mine}
        return {name: tensor for name, tensor in self.predictor_tensors().items() if name in names}

    def _read_in_prediction(self) -> set[Tensor]:
        """The learning parameters that its predictions depend on."""
        parameters = [p for p in self.inner.parameters() if p.requires_grad]
        self.eval()
        with torch.enable_grad():
            total = self(torch.zeros(2, *self.task.input_shape, device=parameters[0].device)).sum()
        if not total.requires_grad:  # it predicts without gradients, so nobody can tell
            return set(parameters)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}

    def training_state(self) -> dict[str, Any]:
        """What it remembers, as far as an object that was not written for it can be asked."""
        return {"inner": capture_state(self.inner)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Give it back; what has no place yet, because the class makes it as it goes, is told in the log."""
        for lost in restore_state(self.inner, state["inner"]):
            log.warning(
                "%s made %s in training; unless it makes that anew before it reads it, it now goes on otherwise than "
                "without the interruption",
                type(self).__name__,
                lost,
            )


@cache
def wrapped(cls: type[nn.Module]) -> type[Foreign]:
    """The algorithm that a class for DomainBed is, without a card; the same each time."""
    return cast(type[Foreign], type(cls.__name__, (Foreign,), {"foreign": cls, "__doc__": cls.__doc__}))


def accepts(function: Callable[..., Any], *args: object, **kwargs: object) -> bool:
    """Whether a function can be called so."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True
