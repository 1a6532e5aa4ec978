"""Train classes written for DomainBed as they are, with checkpoints that they were not written for.

`wrapped` makes an algorithm of such a class. The class gets DomainBed's arguments, and builds its own network and
optimizers; it trains and predicts through DomainBed's methods `update` and `predict`.
"""

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
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.foreign_state import capture_state, restore_state, stepped
from dgbench.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network

log = logging.getLogger(__name__)


class Inputs(Network):
    """A stand-in for a network, which prepares inputs as DomainBed's data sets do.

    Pixels are in [0, 1], and images of three channels are normalized by ImageNet's mean and deviation. The wrapped
    class makes its own network, so this has neither featurizer nor classifier.
    """

    def __init__(self, input_shape: Sequence[int], setting: Setting) -> None:
        # Not Network's, which would build a classifier. The attributes below are those of a Network that `prepare`,
        # `train` and the engine read.
        nn.Module.__init__(self)
        self.normalizes = len(input_shape) == 3 and input_shape[0] == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.normalizes else ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if setting.channels_last is True else torch.contiguous_format
        self.frozen_batch_norm = False
        self.frozen = []


class Foreign(Algorithm):
    """A DomainBed algorithm class behind the interface of `Algorithm`; `wrapped` makes a subclass for each class.

    `inner` is the instance of the class. It holds network, optimizers and whatever else the class keeps.
    """

    foreign: ClassVar[Any]
    """The class written for DomainBed."""
    Hparams: ClassVar[Any] = dict
    """DomainBed's hyperparameters are a plain dict."""

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Return the module that prepares inputs; the class builds its own network in `build`."""
        return Inputs(input_shape, setting)

    def build(self) -> None:
        """Make the instance of the class, as DomainBed's training script does."""
        # The run seeded torch, which draws the weights; forks also draw from Python's and numpy's generators.
        seed = torch.initial_seed()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        task = self.task
        self.inner = self.foreign(task.input_shape, task.num_classes, task.num_domains, copy.deepcopy(self.hparams))
        self.inner.to(memory_format=self.network.memory_format)
        self._more = {"unlabeled": None} if accepts(self.inner.update, [], unlabeled=None) else {}
        # `named_modules` gives each module one name. `state_dict` does not: DomainBed's classes hold a featurizer both
        # by itself and as a part of `network`, so its tensors would be averaged and saved twice.
        modules = self.inner.named_modules()
        self._names = frozenset(
            f"{module_name}.{name}".lstrip(".")
            for module_name, module in modules
            for name in (*module._parameters, *module._buffers)
        )

    def build_optimizers(self) -> None:
        """Do nothing: the class has made its optimizers."""

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Run one `update` of the wrapped class, and return the scalars that it logs: tensors, or numbers."""
        logged: Mapping[str, Tensor | float] = self.inner.update(
            [(batch.x, batch.y) for batch in batches], **self._more
        )
        return logged

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits that the wrapped class predicts."""
        logits: Tensor = self.inner.predict(x)
        return logits

    def predictor_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the instance had when it was built: those that come and go can't be averaged."""
        state = self.inner.state_dict()
        return {f"inner.{name}": tensor for name, tensor in state.items() if name in self._names}

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the parameters that the class's optimizers step, and the buffers of the same modules (batch norm).

        Raises:
            UserError: The class predicts by other parameters, such as a mean of weights.
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
        """Return the parameters that require a gradient and that predictions depend on."""
        parameters = [p for p in self.inner.parameters() if p.requires_grad]
        self.eval()
        with torch.enable_grad():
            total = self(torch.zeros(2, *self.task.input_shape, device=parameters[0].device)).sum()
        if not total.requires_grad:  # predicts under no_grad: any parameter may count
            return set(parameters)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}

    def training_state(self) -> dict[str, Any]:
        """Return all of the instance's memory that `foreign_state` can find."""
        return {"inner": capture_state(self.inner)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `training_state`; warn of parts that the class made in training and now lacks."""
        for lost in restore_state(self.inner, state["inner"]):
            log.warning(
                "%s made %s in training, which could not be restored: unless the class makes it again before reading "
                "it, the run now differs from one without the interruption",
                type(self).__name__,
                lost,
            )


@cache
def wrapped(cls: type[nn.Module]) -> type[Foreign]:
    """Make the algorithm class, without a card, that trains `cls`; the same one each time."""
    return cast(type[Foreign], type(cls.__name__, (Foreign,), {"foreign": cls, "__doc__": cls.__doc__}))


def accepts(function: Callable[..., Any], *args: object, **kwargs: object) -> bool:
    """Return whether the signature of a function allows a call with these arguments; it is not called."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True
