"""What an algorithm is: it trains one model on minibatches, one from each training domain.

Most methods write `loss`; those that touch gradients or take several optimizer steps write `update`. The engine owns
the loop, the data, the random numbers, evaluation and saving; an algorithm never sees a held-out domain.

    loop: for step in range(steps):
              algorithm.step = step
              algorithm.update(one minibatch of each training domain)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dgbench.core.cards import AlgorithmCard
from dgbench.core.setting import Setting
from dgbench.core.space import Checked, Draw, Value, choice, hparam, power
from dgbench.methods.criteria import CRITERIA
from dgbench.networks.network import Network, build_network
from dgbench.networks.norms import batch_norms

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A minibatch of one domain: `x` is B inputs as the network takes them, `y` is B labels, as `task.kind` says.

    `positions` (B,), int64, say which of the domain's training examples they are: below `task.sizes[domain]`.
    `domain` is its number among the training domains, of which a step may show only some.
    `taught` (B, classes) are the teacher's logits, for an algorithm whose card says that it is taught.
    """

    x: Tensor
    y: Tensor
    positions: Tensor
    domain: int
    taught: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """What a method may know of the data: never the held-out domains."""

    input_shape: tuple[int, ...]
    num_classes: int
    class_counts: tuple[tuple[int, ...], ...]
    """Training examples of each domain and class; of each domain alone where labels are no classes."""
    kind: str = "classification"
    """What labels are, a key of `cards.TASKS`: classes (B,), int64, or what `CRITERIA` has it compare."""
    normalised: bool = False
    """Inputs come normalised, so that the network leaves them as they are."""

    @property
    def num_domains(self) -> int:
        """Training domains; `update` gets as many minibatches, or fewer where the setting says so, ascending."""
        return len(self.class_counts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Training examples of each domain."""
        return tuple(sum(counts) for counts in self.class_counts)


def from_scratch(default: float, draw: Draw) -> dict[str, tuple[Value, Draw | None]]:
    """Return the variants of a learning rate for networks that know nothing yet, as DomainBed has it for small images.

    Args:
        default: The rate at hyperparameter seed 0.
        draw: Its distribution for all other seeds.
    """
    return dict.fromkeys(("small_images", "from_scratch"), (default, draw))


FROM_SCRATCH = from_scratch(1e-3, power(10, -4.5, -2.5))
"""The learning rate of most methods there."""


@dataclass(frozen=True)
class Hparams(Checked):
    """The hyperparameters that every algorithm has; defaults and draws are DomainBed's."""

    lr: float = hparam(5e-5, power(10, -5, -3.5), variants=FROM_SCRATCH, within="[0, inf)")
    weight_decay: float = hparam(0.0, power(10, -6, -2), variants={"small_images": (0.0, None)}, within="[0, inf)")
    batch_size: int = hparam(
        32,
        power(2, 3, 5.5, integer=True),
        help="examples of each domain in a step",
        variants={
            "few_examples": (32, power(2, 3, 5.5, integer=True)),
            "many_classes": (32, power(2, 3, 5, integer=True)),
            "small_images": (64, power(2, 3, 9, integer=True)),
            "sequences": (2, power(2, 0, 2, integer=True)),
        },
        within="[1, inf)",
    )
    resnet_dropout: float = hparam(
        0.0,
        choice(0.0, 0.1, 0.5),
        help="dropout between features and classifier, of any network; DomainBed's presets: of timm's networks alone",
        within="[0, 1]",
        streams={"domainbed_vit": "vit_dropout"},
    )


class Algorithm(nn.Module):
    """Base of every algorithm. Override `loss` or `update`, and of the other hooks below those that it needs.

    A subclass declares `card` and, if it has hyperparameters of its own, a frozen dataclass `Hparams` that extends
    this module's. The first line of its docstring is the objective. What it remembers between steps are parameters,
    buffers, optimizers that are its attributes, or what `get_extra_state` returns: all of it is saved.
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
        """Steps of the loop before this one; the loop sets it."""
        self.lr_scale = 1.0
        """What the learning rates are multiplied by beside the setting's schedule; the loop sets it."""
        self.survey_at = -1
        """The step before which the loop calls `survey`; `build` may set it."""
        self.validate_at = -1
        """The step before which the loop calls `validated`, evaluated or not; `build` may set it."""
        self.build()
        self.build_optimizers()

    # What a method may override.

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """The network of a run, freshly initialised from torch's global generator."""
        return build_network(input_shape, num_classes, setting, hparams.resnet_dropout)

    def build(self) -> None:
        """Create further modules, buffers and constants; called before the optimizers take the parameters."""

    def build_optimizers(self) -> None:
        """Create the optimizers, by `new_optimizer`; each is an attribute."""
        self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """The scalar to minimise, given one minibatch of each training domain."""
        raise NotImplementedError(f"{type(self).__name__} must write loss() or update()")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Change the model once; return scalars worth logging, on the device.

        Numbers will do, as `loss.item()` gives them, but for each the step waits until the device has computed it.
        """
        loss = self.loss(batches)
        self.descend(loss)
        return {"loss": loss.detach()}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes); each row must depend on its own input alone, or the card says "transductive"."""
        logits: Tensor = self.network(x)
        return logits

    def predictor_tensors(self) -> dict[str, Tensor]:
        """The live tensors that `forward` reads in evaluation, by their names in this module; not copies."""
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def trained_tensors(self) -> dict[str, Tensor]:
        """Those of `predictor_tensors` that training goes on from, which an average may set."""
        return self.predictor_tensors()

    def validated(self, accuracy: float) -> None:
        """Hear the mean accuracy on the training domains' validation parts: after evaluations, before `validate_at`.

        May come twice for one step, as where a run is resumed there.
        """

    def survey(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Sequence[Tensor]:
        """See logits (n, classes) and labels (n,) of every training example, clean, a pair a domain, on the CPU.

        Called once, before step `survey_at`. Returns for each domain how many times an example stands in it from then
        on (n,), int64: minibatches are drawn from these copies.
        """
        raise NotImplementedError(f"{type(self).__name__} sets survey_at, so it must write survey()")

    # What a method may call.

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a minibatch: cross-entropy where labels are classes, otherwise what suits them."""
        return CRITERIA[self.task.kind].mean(logits, y)

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer along the gradient of `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def new_optimizer(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> Optimizer:
        """A fresh optimizer of the setting's kind over those of the parameters (or groups) that require a gradient.

        Learning rate and weight decay are the run's unless given; `betas` are for the kinds of Adam. Each of its steps
        follows the setting's schedule and clipping.
        """
        lr = self.hparams.lr if lr is None else lr
        decay = self.hparams.weight_decay if weight_decay is None else weight_decay
        kinds: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
        sgd = self.setting.optimizer == "sgd"
        more: dict[str, Any] = {"momentum": self.setting.momentum} if sgd else {"betas": betas}
        optimizer = kinds[self.setting.optimizer](_learning(parameters), lr=lr, weight_decay=decay, fused=True, **more)
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
        optimizer.register_step_pre_hook(self._before_step)
        return optimizer

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        factor = self.lr_scale * self.setting.lr_factor(self.step)
        for group in optimizer.param_groups:
            group["lr"] = factor * group["full_lr"]
        if self.setting.clip_norm:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            nn.utils.clip_grad_norm_(parameters, self.setting.clip_norm, foreach=True)

    def new_network(self, input_shape: Sequence[int] | None = None) -> Network:
        """A further network of this run's kind, freshly initialised, for inputs of another shape if given.

        It is given what `prepare` of this run's network makes.
        """
        network = self.make_network(
            input_shape or self.task.input_shape, self.task.num_classes, self.hparams, self.setting
        )
        network.normalises = False
        return network.to(next(self.network.buffers()).device)

    def joint_loss(self, batches: Sequence[Batch]) -> Tensor:
        """Mean criterion over all examples of all domains, in one forward pass."""
        return self.criterion(self(torch.cat([b.x for b in batches])), torch.cat([b.y for b in batches]))

    def domain_losses(self, batches: Sequence[Batch]) -> Tensor:
        """Mean criterion of each domain (E,), in one forward pass over all of them.

        Live batch norm sees the mixture of domains, as in DomainBed's VREx. For methods that pass domain by domain
        there (EQRM, GroupDRO) take `domain_features`.
        """
        logits = self(torch.cat([b.x for b in batches])).split([len(b.y) for b in batches])
        return torch.stack([self.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])

    def domain_features(self, batches: Sequence[Batch]) -> list[Tensor]:
        """What the classifier is given of each domain, (B, num_features) after dropout.

        One forward pass over all domains, or one a domain where batch norm is live: for methods that look at each
        domain apart, so that each has statistics of its own.
        """
        network = self.network
        if any(norm.training for norm in batch_norms(network.featurizer)):
            return [network.dropout(network.features(b.x)) for b in batches]
        features = network.dropout(network.features(torch.cat([b.x for b in batches])))
        return list(torch.split(features, [len(b.y) for b in batches]))

    # What the engine calls.

    def logged_update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Call `update`; return its logged values as tensors without a graph, also where it returns numbers."""
        logged = self.update(batches)
        if numbers := sorted(name for name, value in logged.items() if not isinstance(value, Tensor)):
            _warn_of_numbers(type(self).__name__, ", ".join(numbers))
        return {name: v.detach() if isinstance(v, Tensor) else torch.tensor(float(v)) for name, v in logged.items()}

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


@cache
def _warn_of_numbers(method: str, names: str) -> None:
    log.warning(
        "update() of %s returns plain numbers (%s): each step waits for the device. Detached tensors would not",
        method,
        names,
    )


def _learning(parameters: Iterable[Any]) -> list[Any]:
    """Those that require a gradient; of a group, its own."""
    kept: list[Any] = []
    for item in parameters:
        if isinstance(item, dict):
            kept.append({**item, "params": [p for p in item["params"] if p.requires_grad]})
        elif item.requires_grad:
            kept.append(item)
    return kept
