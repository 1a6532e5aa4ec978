"""What an algorithm is: it trains one model on minibatches, one from each training domain.

Most methods write `loss`; those that touch gradients or take several optimizer steps write `update`. The engine owns
the loop, the data, the random numbers, evaluation and saving; an algorithm never sees a held-out domain.

    loop: for step in range(steps):
              algorithm.step = step
              algorithm.update(one minibatch of each training domain)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer

from dgbench.cards import AlgorithmCard
from dgbench.networks import Network
from dgbench.setting import Setting
from dgbench.space import choice, hparam, power


class Batch(NamedTuple):
    """A minibatch of one domain: `x` is B inputs as the network takes them, `y` is B labels (int64)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """What a method may know of the data: never the held-out domains."""

    input_shape: tuple[int, ...]
    num_classes: int
    num_domains: int
    """Training domains; `update` gets as many minibatches, in a fixed order."""


@dataclass(frozen=True)
class Hparams:
    """The hyperparameters that every algorithm has; defaults and draws are DomainBed's."""

    lr: float = hparam(5e-5, power(10, -5, -3.5), variants={"small_images": (1e-3, power(10, -4.5, -2.5))})
    weight_decay: float = hparam(0.0, power(10, -6, -2), variants={"small_images": (0.0, None)})
    batch_size: int = hparam(
        32,
        power(2, 3, 5.5, integer=True),
        help="examples of each domain in a step",
        variants={
            "few_examples": (32, power(2, 3, 5.5, integer=True)),
            "many_classes": (32, power(2, 3, 5, integer=True)),
            "small_images": (64, power(2, 3, 9, integer=True)),
        },
    )
    resnet_dropout: float = hparam(0.0, choice(0.0, 0.1, 0.5), help="dropout between features and classifier")


class Algorithm(nn.Module):
    """Base of every algorithm. Override `loss` or `update`, and if needed `build` and `forward`; nothing else.

    A subclass declares `card` and, if it has hyperparameters of its own, a frozen dataclass `Hparams` that extends
    this module's. The first line of its docstring is the objective.
    """

    card: ClassVar[AlgorithmCard]
    Hparams: ClassVar[type[Hparams]] = Hparams

    def __init__(self, network: Network, hparams: Any, task: Task, setting: Setting) -> None:
        super().__init__()
        self.network = network
        self.hparams = hparams
        self.task = task
        self.setting = setting
        self.step = 0
        """Optimizer steps of the loop before this one; the loop sets it."""
        self.build()
        self.optimizer = self.new_optimizer(self.parameters())

    # What a method may override.

    def build(self) -> None:
        """Create further modules, buffers and constants; called before the optimizer takes the parameters."""

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """The scalar to minimise, given one minibatch of each training domain."""
        raise NotImplementedError(f"{type(self).__name__} must write loss() or update()")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Change the model once; returns scalars worth logging, on the device (no `.item()` in a step)."""
        loss = self.loss(batches)
        self.descend(loss)
        return {"loss": loss.detach()}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes); each row must depend on its own input alone, or the card says "transductive"."""
        logits: Tensor = self.network(x)
        return logits

    # What a method may call.

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer along the gradient of `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def new_optimizer(self, parameters: Iterable[nn.Parameter], lr: float | None = None) -> Optimizer:
        """A fresh optimizer of the setting's kind, with this run's weight decay and (unless given) learning rate."""
        lr = self.hparams.lr if lr is None else lr
        decay = self.hparams.weight_decay
        kinds: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
        more = {"momentum": self.setting.momentum} if self.setting.optimizer == "sgd" else {}
        return kinds[self.setting.optimizer](parameters, lr=lr, weight_decay=decay, fused=True, **more)

    def joint_loss(self, batches: Sequence[Batch]) -> Tensor:
        """Mean cross-entropy over all examples of all domains, in one forward pass."""
        return F.cross_entropy(self(torch.cat([b.x for b in batches])), torch.cat([b.y for b in batches]))

    def domain_losses(self, batches: Sequence[Batch]) -> Tensor:
        """Mean cross-entropy of each domain (E,), in one forward pass over all of them.

        With live batch norm the pass is over the mixture of domains, as DomainBed's is.
        """
        logits = self(torch.cat([b.x for b in batches])).split([len(b.y) for b in batches])
        return torch.stack([F.cross_entropy(z, b.y) for z, b in zip(logits, batches, strict=True)])

    def domain_features(self, batches: Sequence[Batch]) -> list[Tensor]:
        """What the classifier is given of each domain, (B, num_features) after dropout.

        One forward pass over all domains, or one a domain where batch norm is live: for methods that look at each
        domain apart, so that each has statistics of its own.
        """
        network = self.network
        if any(isinstance(module, _BatchNorm) and module.training for module in network.featurizer.modules()):
            return [network.dropout(network.features(b.x)) for b in batches]
        features = network.dropout(network.features(torch.cat([b.x for b in batches])))
        return list(torch.split(features, [len(b.y) for b in batches]))

    # What the engine calls.

    def predictor_tensors(self) -> dict[str, Tensor]:
        """The live tensors that `forward` reads, by their names in this module; not copies."""
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def training_state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for `step` and the data."""
        return {
            "module": self.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in vars(self).items() if isinstance(o, Optimizer)},
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `training_state` gave."""
        self.load_state_dict(state["module"])
        for name, optimizer_state in state["optimizers"].items():
            getattr(self, name).load_state_dict(optimizer_state)
